"""Several rules in one torch.optim.Optimizer, fu.torch.Partition and `others=`: what it computes and keeps."""

from __future__ import annotations

import copy
import pickle
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from cases import assert_same_bits
from peers import file_needs, peer
from torch_cases import hand_over, torch
from torch_partitions import RULES, SHAPES, by_rules, kept, make, parameters, some, step, steps, values

import fastupdate as fu

pytestmark = pytest.mark.peer
file_needs("torch")


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip": {"clip_norm": 0.5, "ema_decay": 0.9, "lookahead": (2, 0.5)},
    "monitor": {"monitor": True, "nonfinite": "skip"},
    "climbing": {"maximize": True, "clip_value": 0.5, "l1": 1e-3, "optimism": 0.3},
}


# -- what it computes -------------------------------------------------------------------------------------------------


@by_rules
@pytest.mark.parametrize("option", OPTIONS)
def test_tensors_are_moved_as_arrays_by_the_same_rules(rules: Any, option: str) -> None:
    params, arrays, options = parameters(), some(1), OPTIONS[option]
    optimizer = make(rules, params, **options)
    reference = fu.Partition(arrays, [(names, rule) for names, rule in rules.values()], **options)
    for seed in range(5):
        grads = some(10 + seed)
        if seed == 2 and option == "monitor":
            grads["last.b"][1] = np.nan  # a step that none of the rules takes
        hand_over([*params.values()], [torch.from_numpy(g.copy()) for g in grads.values()])
        optimizer.step()
        assert repr(optimizer.report) == repr(reference.step(grads))
    assert_same_bits(values(params), [*arrays.values()], "parameters")
    assert [group["rule"] for group in optimizer.param_groups] == [*rules]
    if options.get("ema_decay"):
        assert_same_bits([optimizer.state[p]["ema"].numpy() for p in params.values()], [*reference.ema.values()], "ema")
    if options.get("monitor"):
        assert_same_bits(optimizer.report.tensors["grad_norm"], reference.report.tensors["grad_norm"], "grad_norm")


def apart(rules: Any, params: dict[str, Any]) -> list[Any]:
    """An optimizer for each rule."""
    return [
        getattr(fu.torch, getattr(rule, "func", rule).__name__)(
            [params[name] for name in names], **getattr(rule, "keywords", {})
        )
        for names, rule in rules.values()
    ]


@by_rules
def test_schedulers_drive_all_rules_as_they_drive_each(rules: Any) -> None:
    params, others = parameters(), parameters()
    optimizer, alone = make(rules, params), apart(rules, others)
    module = torch.optim.lr_scheduler
    schedulers = [module.CosineAnnealingLR(o, 9) for o in (optimizer, *alone)]
    for seed in range(6):
        step(optimizer, params, seed)
        grads = [torch.from_numpy(g) for g in some(10 + seed).values()]
        hand_over([*others.values()], grads)
        for each in alone:
            each.step()
        for scheduler in schedulers:
            scheduler.step()
    assert_same_bits(values(params), values(others), "parameters")
    assert [g["lr"] for g in optimizer.param_groups] == [each.param_groups[0]["lr"] for each in alone]


@by_rules
def test_gradients_come_and_go(rules: Any) -> None:
    """Also those of a whole rule; each parameter's steps are its own."""
    params, others = parameters(), parameters()
    optimizer, alone = make(rules, params), apart(rules, others)
    all_of_first = tuple(next(iter(rules.values()))[0])
    for seed, absent in enumerate((("embed",), (), all_of_first, ("first.b", "last.w"), tuple(SHAPES), ())):
        grads = step(optimizer, params, seed, absent)
        hand_over([*others.values()], [None if g is None else torch.from_numpy(g) for g in grads.values()])
        for each in alone:
            each.step()
    assert_same_bits(values(params), values(others), "parameters")
    states = {id(p): each.state[p] for each in alone for p in others.values() if p in each.state}
    for p, q in zip(params.values(), others.values(), strict=True):
        assert optimizer.state[p].get("step") == states[id(q)].get("step")


@pytest.mark.parametrize("with_names", [True, False])
def test_others_have_what_is_no_matrix(with_names: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 6), torch.nn.LayerNorm(6))
    recipe = fu.AdamW.with_(lr=3e-4, betas=(0.8, 0.95))
    given = model.named_parameters() if with_names else model.parameters()
    optimizer = fu.torch.Muon(given, 0.03, others=("0.*", recipe) if with_names else recipe, clip_norm=1.0)
    embedding, weight, bias, scale, shift = model.parameters()
    first, second = optimizer.param_groups
    matrices = [weight] if with_names else [embedding, weight]
    rest = [embedding, bias, scale, shift] if with_names else [bias, scale, shift]
    assert [*map(id, first["params"])] == [*map(id, matrices)]
    assert [*map(id, second["params"])] == [*map(id, rest)]
    assert (first["rule"], first["lr"], second["rule"], second["lr"]) == ("muon", 0.03, "adamw", 3e-4)
    assert "betas" not in first
    assert second["betas"] == (0.8, 0.95)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert ("param_names" in first) == with_names
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.arange(6)).square().sum().backward()
    optimizer.step()
    assert all((p != q).any() for p, q in zip(model.parameters(), before, strict=True) if p is not embedding)


def test_groups_are_divided_each() -> None:
    params = parameters()
    groups = [
        {"params": [params["first.w"], params["first.b"]], "weight_decay": 0.3},
        {"params": [params["last.w"], params["last.b"]], "lr": 0.5},
    ]
    optimizer = fu.torch.Muon(groups, lr=0.02, others=fu.SGD)
    told = [(group["rule"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert told == [("muon", 0.02, 0.3), ("muon", 0.5, 0.1), ("sgd", 0.001, 0.3), ("sgd", 0.5, 0.0)]


def test_rules_are_judged_where_they_are_to_be_judged() -> None:
    """One of them trains weights at another point than it is judged at."""
    rules = {
        "adamwschedulefree": (["first.w", "last.w"], fu.AdamWScheduleFree.with_(lr=0.1)),
        "sgd": (["embed", "first.b", "last.b"], fu.SGD.with_(lr=0.1)),
    }
    params = parameters()
    optimizer = make(rules, params)
    steps(optimizer, params, 0)
    at_training = kept(params)
    optimizer.eval()
    moved = [bool((a != b).any()) for a, b in zip(values(params), at_training, strict=True)]
    assert moved == [name.endswith(".w") for name in SHAPES]
    with pytest.raises(ValueError, match=r"\[adamwschedulefree\] step: expected the mode of training"):
        step(optimizer, params, 3)
    optimizer.train()
    for a, b in zip(values(params), at_training, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# -- what is kept -----------------------------------------------------------------------------------------------------

WAYS = {
    "deepcopy": lambda state, path: copy.deepcopy(state),
    "file": lambda state, path: (torch.save(state, path), torch.load(path, weights_only=True))[1],
}


@by_rules
@pytest.mark.parametrize("way", WAYS)
def test_a_loaded_run_goes_on_with_the_same_bits(rules: Any, way: str, tmp_path: Any) -> None:
    params = parameters()
    optimizer = make(rules, params, **OPTIONS["clip"])
    steps(optimizer, params, 0)
    optimizer.param_groups[1]["lr"] = 0.007
    others = {name: torch.nn.Parameter(p.detach().clone()) for name, p in params.items()}
    another = make(rules, others, **OPTIONS["clip"])
    steps(another, others, 7, 1)  # it has states of its own before
    for p, q in zip(others.values(), params.values(), strict=True):
        p.data.copy_(q.data)
    another.load_state_dict(WAYS[way](optimizer.state_dict(), tmp_path / "state.pt"))
    assert another.param_groups[1]["lr"] == 0.007
    for o, its in ((optimizer, params), (another, others)):
        steps(o, its, 3)
    assert_same_bits(values(others), values(params), "parameters")
    states = [o.state_dict()["state"] for o in (another, optimizer)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert len(states[0]) == len(params)


@by_rules
@pytest.mark.parametrize(
    "copying", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_copies_go_on_by_themselves(rules: Any, copying: Any) -> None:
    params = parameters()
    optimizer = make(rules, params, **OPTIONS["clip"])
    steps(optimizer, params, 0)
    twin, others = copying((optimizer, params))
    for o, its in ((optimizer, params), (twin, others)):
        steps(o, its, 3)
    assert_same_bits(values(others), values(params), "parameters")
    assert twin.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


@by_rules
@pytest.mark.parametrize("flat", [False, True])
def test_checkpoints_of_torch_distributed_hold_all_of_it(rules: Any, flat: bool) -> None:
    module = pytest.importorskip("torch.distributed.checkpoint.state_dict", reason="torch has no such checkpoints")
    how = module.StateDictOptions(flatten_optimizer_state_dict=flat)

    def model() -> Any:
        made = torch.nn.Module()
        params = parameters()
        made.params = torch.nn.ParameterList(params.values())
        return made, params

    (saved, params), (loaded, others) = model(), model()
    optimizer, another = make(rules, params), make(rules, others)
    steps(optimizer, params, 0)
    state = module.get_optimizer_state_dict(saved, optimizer, options=how)
    loaded.load_state_dict(saved.state_dict())
    module.set_optimizer_state_dict(loaded, another, state, options=how)
    for o, its in ((optimizer, params), (another, others)):
        steps(o, its, 3)
    assert_same_bits(values(others), values(params), "parameters")


def _plain_state(optimizer: Any, params: dict[str, Any]) -> None:
    optimizer.state = defaultdict(dict, {p: dict(entry) for p, entry in optimizer.state.items()})


def _other_groups(optimizer: Any, params: dict[str, Any]) -> None:
    optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
    optimizer.param_groups[0]["lr"] = 0.05


def _one_group_less(optimizer: Any, params: dict[str, Any]) -> None:
    optimizer.param_groups[:] = optimizer.param_groups[:1]


def _state(optimizer: Any, params: dict[str, Any]) -> None:
    optimizer.state[params["first.b"]]["exp_avg"].fill_(0.5)
    optimizer.state[params["embed"]]["step"] += 3


@pytest.mark.parametrize("interfere", [_plain_state, _other_groups, _one_group_less, _state], ids=lambda f: f.__name__)
def test_interference_has_the_effect_that_it_has_on_each_rule(interfere: Any) -> None:
    rules, params = RULES["matrices"], parameters()
    optimizer = make(rules, params)
    steps(optimizer, params, 0)
    twin, others = copy.deepcopy((optimizer, params))
    for o, its in ((optimizer, params), (twin, others)):
        interfere(o, its)
    twin, others = copy.deepcopy((twin, others))  # which knows of no step before
    for o, its in ((optimizer, params), (twin, others)):
        steps(o, its, 3)
    assert_same_bits(values(others), values(params), "parameters")


def test_a_group_of_another_rule_is_added_while_training() -> None:
    params = parameters()
    optimizer = make({"muon": RULES["matrices"]["muon"]}, params)
    steps(optimizer, params, 0)
    rest = [(name, params[name]) for name in ("embed", "first.b")]
    optimizer.add_param_group({"params": rest, "rule": fu.AdamW.with_(lr=0.01), "weight_decay": 0.5})
    optimizer.add_param_group({"params": [("last.b", params["last.b"])], "rule": "adamw", "lr": 0.02})
    steps(optimizer, params, 3)
    assert [(group["rule"], group["lr"]) for group in optimizer.param_groups[1:]] == [("adamw", 0.01), ("adamw", 0.02)]
    assert [float(optimizer.state[p]["step"]) for _, p in rest] == [3, 3]


EQUATIONS = {"adamw": "amsgrad", "sgd": "nesterov", "rmsprop": "centered", "adam": "maximize"}


@pytest.mark.parametrize("rule", EQUATIONS)
@pytest.mark.parametrize("when", ["at first", "later"])
def test_groups_of_one_rule_may_differ_in_equations(rule: str, when: str) -> None:
    """With the bits of an optimizer for each."""
    flag, given = EQUATIONS[rule], {"lr": 0.01, "weight_decay": 0.1, **({"momentum": 0.9} if rule == "sgd" else {})}
    kind = fu.rules.get(rule).with_(**given)
    params, others = parameters(), parameters()
    names = ["embed", "last.b"], ["first.w", "first.b", "last.w"]
    optimizer = fu.torch.Partition([{"params": [(n, params[n]) for n in part], "rule": kind} for part in names])
    cls = getattr(fu.torch, fu.rules.get(rule).__name__)
    each = [cls([(n, others[n]) for n in part], **given) for part in names]
    for seed in range(6):
        if seed == (0 if when == "at first" else 3):
            optimizer.param_groups[1][flag] = each[1].param_groups[0][flag] = True
        grads = some(10 + seed)
        hand_over([*params.values(), *others.values()], [torch.from_numpy(g.copy()) for g in (*grads.values(),) * 2])
        optimizer.step()
        for one in each:
            one.step()
    assert_same_bits(values(params), values(others), "parameters")
    twin, theirs = copy.deepcopy((optimizer, params))
    steps(optimizer, params, 6)
    steps(twin, theirs, 6)
    assert_same_bits(values(params), values(theirs), "parameters")
