"""States from before a rule had some hyperparameter, flag or state: they load, where it is what it is by default."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import RULE_NAMES, exactly, fingerprint
from peers import peer

import fastupdate as fu
from fastupdate import rules
from fastupdate.optimizer import Optimizer
from fastupdate.step.hypers import FROZEN_UNTIL, SHARED

State = dict[str, Any]


def make(name: str, seed: int = 0, **arguments: Any) -> Optimizer:
    """An optimizer of a rule, and what no argument says as it is by default."""
    rng = np.random.default_rng(seed)
    return rules.get(name)({"w": rng.standard_normal((3, 4)), "v": rng.standard_normal((2, 2))}, **arguments)


def stepped(opt: Any, steps: int) -> Any:
    rng = np.random.default_rng(steps)
    for _ in range(steps):
        opt.step({name: rng.standard_normal(p.shape) for name, p in opt.params.items()})
    return opt


def whole(opt: Any) -> State:
    """The state with the parameters, as a file has it."""
    state: State = opt.state_dict()
    state["arrays"] |= {f"param.{name}": p.copy() for name, p in opt.params.items()}
    return state


def before(state: State, *names: str) -> State:
    """The state as it was written when there were no hyperparameters, flags and states of these names."""
    arrays = {key: a for key, a in state["arrays"].items() if not any(key.startswith(f"state.{n}.") for n in names)}
    flags = {key: flag for key, flag in state["flags"].items() if key not in names}
    groups = [{key: value for key, value in group.items() if key not in names} for group in state["groups"]]
    return copy.deepcopy({**state, "arrays": arrays, "flags": flags, "groups": groups})


def younger(name: str) -> Iterator[tuple[str, ...]]:
    """What a file of a rule may lack: one thing after the other, and all."""
    rule = rules.get(name).rule
    every = (*rule.hypers, *SHARED, FROZEN_UNTIL, *rule.flags, *sorted(rule.remade))
    yield from ((one,) for one in every)
    yield every


@pytest.mark.parametrize("name", RULE_NAMES)
def test_a_state_that_lacks_what_is_by_default_goes_on_as_one_that_has_it(name: str) -> None:
    state, known = whole(stepped(make(name), 2)), make(name, 1)
    known.load_state_dict(state)
    expected = exactly(whole(stepped(known, 3)))
    for lacking in younger(name):
        opt = stepped(make(name, 2), 4)  # elsewhere before
        loaded = opt.load_state_dict(before(state, *lacking))
        assert loaded.unexpected_keys == []
        hypers = [key for key in opt.groups[0].intervals() if key in lacking]
        assert [key for key in loaded.missing_keys if key.startswith("groups")] == [f"groups[0].{h}" for h in hypers]
        assert exactly(whole(stepped(opt, 3))) == expected, lacking


@pytest.mark.parametrize("name", RULE_NAMES)
def test_states_that_cannot_be_made_anew_are_asked_for(name: str) -> None:
    rule, state = rules.get(name).rule, whole(stepped(make(name), 2))
    for own in {key.split(".")[1] for key in state["arrays"] if key.startswith("state.")} - rule.remade:
        with pytest.raises(ValueError, match=rf"\['state\.{own}\..*'\]: expected an entry, received none"):
            make(name).load_state_dict(before(state, own))


# What an optimizer has set otherwise than by default, that default, and how it is told; of a rule, an option, groups.
OTHERWISE: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "growth_rate": ("prodigy", {"growth_rate": 2.0}, "inf", "2.0"),
    "trust_max": ("lamb", {"trust_max": 5.0}, "inf", "5.0"),
    "l1": ("adamw", {"l1": 0.125}, "0.0", "0.125"),
    "lr": ("adamw", {"lr": fu.schedules.cosine(1.0, 9)}, "0.001", "a schedule"),
    "lr_scale": ("adamw", {"groups": [{"params": "v", "lr_scale": 0.5}]}, "1.0", "0.5"),
    "frozen_until": ("sgd", {"groups": [{"params": "*", "frozen_until": 9}]}, "0.0", "9.0"),
    "eps_hat": ("adam", {"eps_hat": True}, "False", "True"),
}  # fmt: skip


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("key", OTHERWISE)
def test_what_an_optimizer_has_otherwise_is_named(key: str, version: int) -> None:
    """It is kept if that is said."""
    name, arguments, default, here = OTHERWISE[key]
    older = before(whole(stepped(make(name, **arguments), 2)), key) | {"version": version}
    opt = make(name, **arguments)
    unchanged, kept = fingerprint(opt), [{**group, **opt.stepper.flags}[key] for group in opt.groups]
    expected = f"expected an entry, or {default} in this optimizer, received none, and {here} (strict=False keeps it)"
    with pytest.raises(ValueError, match=rf"\[{name}\] state_dict.*\['{key}'\]: {re.escape(expected)}"):
        opt.load_state_dict(older)
    assert fingerprint(opt) == unchanged
    loaded = opt.load_state_dict(older, strict=False)
    assert [{**group, **opt.stepper.flags}[key] for group in opt.groups] == kept
    assert opt.step_count == 2
    assert f"groups[0].{key}" in loaded.missing_keys or key in opt.stepper.flags


def test_the_rules_of_a_partition_may_lack_something_each() -> None:
    def partition(seed: int) -> fu.Partition:
        return fu.Partition(make("sgd", seed).params, [("w", fu.Prodigy), ("*", fu.AdamW)])

    first, opt = stepped(partition(0), 2), partition(1)
    state = whole(first)
    parts = [before({**part, "arrays": {}}, "beta3", "eps_hat") for part in state["parts"]]
    for part in parts:
        del part["arrays"]
    arrays = {key: array for key, array in state["arrays"].items() if not key.startswith("state.d_max.")}
    loaded = opt.load_state_dict({**state, "parts": parts, "arrays": arrays})
    assert loaded.missing_keys == ["parts[0].groups[0].beta3", "state.d_max.w"]
    assert exactly(whole(stepped(opt, 3))) == exactly(whole(stepped(first, 3)))


@pytest.mark.parametrize("name", RULE_NAMES)
def test_a_pickle_may_lack_a_hyperparameter(name: str) -> None:
    """What a group lacks is as it is by default, not 0."""
    opt = stepped(make(name), 2)
    kept = copy.deepcopy(opt.__getstate__())
    names = [*opt.rule.hypers, *opt.rule.flags]
    for group in kept["ingredients"]["groups"]:
        for key in opt.rule.hypers:
            del group[key]
    kept["ingredients"]["flags"] = {}
    kept["state"] = before(kept["state"], *names)
    other = type(opt).__new__(type(opt))
    other.__setstate__(pickle.loads(pickle.dumps(kept)))
    assert exactly(whole(stepped(other, 3))) == exactly(whole(stepped(opt, 3)))


# -- torch ------------------------------------------------------------------------------------------------------------


def torch_pair(name: str, seed: int, **arguments: Any) -> tuple[Any, Any]:
    """A parameter of two groups each, and an optimizer."""
    torch = peer("torch")
    rng = np.random.default_rng(seed)
    params = [torch.nn.Parameter(torch.tensor(rng.standard_normal(shape))) for shape in ((3, 4), (2, 2))]
    cls = getattr(fu.torch, rules.get(name).__name__)
    return params, cls([{"params": [params[0]], **arguments}, {"params": [params[1]]}])


def torch_stepped(params: list[Any], opt: Any, steps: int) -> list[Any]:
    torch, rng = peer("torch"), np.random.default_rng(steps)
    for _ in range(steps):
        for p in params:
            p.grad = torch.tensor(rng.standard_normal(p.shape), dtype=p.dtype)
        opt.step()
    return [p.detach().numpy().copy() for p in params]


def torch_before(state: State, *names: str) -> State:
    """The state of torch's kind as it was written when groups had no such entries."""
    groups = [{key: value for key, value in group.items() if key not in names} for group in state["param_groups"]]
    return copy.deepcopy({**state, "param_groups": groups})


@pytest.mark.peer
@pytest.mark.parametrize("name", RULE_NAMES)
def test_what_torchs_groups_lack_stays_as_it_is(name: str) -> None:
    params, opt = torch_pair(name, 0)
    from fastupdate.torch.listed import names_of

    weights, state = torch_stepped(params, opt, 2), copy.deepcopy(opt.state_dict())
    expected = torch_stepped(params, opt, 3)
    entries = [key for key in state["param_groups"][0] if key != "params"]
    lasting = [key for each, key in names_of(opt.rule).items() if each not in opt.rule.remade]
    for lacking in [(entry,) for entry in entries if entry not in (*lasting, "k")]:
        others, other = torch_pair(name, 1)
        torch_stepped(others, other, 4)  # elsewhere before
        other.load_state_dict(torch_before(state, *lacking))
        for p, w in zip(others, weights, strict=True):
            p.data.copy_(peer("torch").from_numpy(w))
        assert exactly(torch_stepped(others, other, 3)) == exactly(expected), lacking
    for lacking in lasting:
        _, other = torch_pair(name, 1)
        with pytest.raises(ValueError, match=rf"\['param_groups'\]\[0\]\['{lacking}'\]: expected a number"):
            other.load_state_dict(torch_before(state, lacking, "g0_norm"))  # which the packages have for one


@pytest.mark.peer
def test_torchs_checkpoint_leaves_what_is_of_a_group_alone() -> None:
    """What torch's own class does not save is that of the group, not that of the optimizer."""
    torch = peer("torch")
    params, opt = torch_pair("adam", 0, eps_hat=True, l1=0.5)
    theirs = torch.optim.Adam([{"params": [params[0]], "lr": 0.25}, {"params": [params[1]]}])
    torch_stepped(params, theirs, 1)
    opt.load_state_dict(theirs.state_dict())
    assert [(group["lr"], group["eps_hat"]) for group in opt.param_groups] == [(0.25, True), (0.001, False)]
    assert opt.param_groups[0]["l1"] == 0.5
    assert "l1" not in opt.param_groups[1]


@pytest.mark.peer
@pytest.mark.parametrize("name", ["prodigy", "adam"])
def test_a_pickle_of_a_torch_optimizer_may_lack_a_hyperparameter(name: str) -> None:
    _, opt = torch_pair(name, 0)
    kept = copy.deepcopy(opt.__getstate__())
    younger = [key for key in kept["defaults"] if key in ("growth_rate", "beta3", "eps_hat", "uncorrected")]
    for values in (kept["defaults"], *kept["param_groups"]):
        for key in younger:
            del values[key]
    other = type(opt).__new__(type(opt))
    other.__setstate__(kept)
    assert [{**group, "params": 0} for group in other.param_groups] == [
        {**group, "params": 0} for group in opt.param_groups
    ]
    assert younger


# -- of many ranks ----------------------------------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")  # there is no process group
def test_a_distributed_checkpoint_loads_as_the_page_says(tmp_path: Path) -> None:
    torch, checkpoint = peer("torch"), peer("torch.distributed.checkpoint")
    state_dict = peer("torch.distributed.checkpoint.state_dict")

    def started(seed: int) -> tuple[Any, Any]:
        torch.manual_seed(seed)
        model = torch.nn.Linear(3, 2)
        return model, fu.torch.Prodigy(model.parameters())

    def states(model: Any, opt: Any) -> State:
        return dict(zip(("model", "opt"), state_dict.get_state_dict(model, opt), strict=True))

    model, opt = started(0)
    torch_stepped([*model.parameters()], opt, 2)
    older = states(model, opt)
    for group in older["opt"]["param_groups"]:
        del group["growth_rate"], group["d_max"]
    checkpoint.save(older, checkpoint_id=tmp_path)
    other, fresh = started(1)
    new = states(other, fresh)
    planner = peer("torch.distributed.checkpoint.default_planner").DefaultLoadPlanner(allow_partial_load=True)
    checkpoint.load(new, checkpoint_id=tmp_path, planner=planner)
    state_dict.set_state_dict(other, fresh, model_state_dict=new["model"], optim_state_dict=new["opt"])
    moved = [torch_stepped([*m.parameters()], o, 3) for m, o in ((model, opt), (other, fresh))]
    assert exactly(moved[0]) == exactly(moved[1])


@pytest.mark.peer
@pytest.mark.parametrize("name", ["prodigy", "lamb", "adam"])
def test_an_optimizer_over_ranks_takes_older_states(name: str) -> None:
    alone, cls = peer("mpi4py.MPI").COMM_SELF, getattr(fu.sharded, rules.get(name).__name__)
    first, other = (cls(make(name, seed).params, comm=alone) for seed in (0, 1))
    state = whole(stepped(first, 2))
    *_, every = younger(name)
    other.load_state_dict(before(state, *every))
    assert exactly(whole(stepped(other, 3))) == exactly(whole(stepped(first, 3)))
