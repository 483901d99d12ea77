"""A step of several rules in one torch.optim.Optimizer is whole or not at all; what makes no partition is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from cases import assert_same_bits, exactly
from interrupts import outcomes
from peers import file_needs, peer
from torch_cases import hand_over, torch
from torch_partitions import RULES, SHAPES, by_rules, kept, make, parameters, some, step, steps, values

import fastupdate as fu
from fastupdate.optimizers import arguments

pytestmark = pytest.mark.peer
file_needs("torch")


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


# -- a step is whole or not at all ------------------------------------------------------------------------------------


@by_rules
@pytest.mark.parametrize("first", [True, False], ids=["first step", "later"])
def test_if_one_rule_raises_none_has_moved(rules: Any, first: bool) -> None:
    params = parameters()
    optimizer = make(rules, params)
    steps(optimizer, params, 0, 0 if first else 2)
    last = params["last.b"]
    last.data = last.data.half()
    before, state = kept(params), copy.deepcopy(optimizer.state_dict())
    pairs = zip(some(9).values(), params.values(), strict=True)
    hand_over([*params.values()], [torch.from_numpy(g).to(p.dtype) for g, p in pairs])
    for _ in range(2):
        with pytest.raises(TypeError, match=r"params\['last.b'\]: expected float32"):
            optimizer.step()
    assert_same_bits(values(params), before, "parameters")
    after = optimizer.state_dict()
    torch.testing.assert_close(after["state"], state["state"], rtol=0, atol=0)
    assert after["param_groups"] == state["param_groups"]


@by_rules
def test_a_gradient_that_is_not_finite_stops_all_rules(rules: Any) -> None:
    params = parameters()
    optimizer = make(rules, params, nonfinite="raise")
    steps(optimizer, params, 0)
    before, state = kept(params), copy.deepcopy(optimizer.state_dict()["state"])
    grads = [torch.from_numpy(g) for g in some(9).values()]
    grads[-1][2] = float("nan")
    hand_over([*params.values()], grads)
    with pytest.raises(FloatingPointError, match=r"grads\['last.b'\]"):
        optimizer.step()
    assert_same_bits(values(params), before, "parameters")
    torch.testing.assert_close(optimizer.state_dict()["state"], state, rtol=0, atol=0)


@pytest.mark.parametrize("first", [True, False], ids=["first step", "second step"])
def test_an_interrupted_step_is_taken_or_not(first: bool) -> None:
    def made() -> Any:
        params = [torch.nn.Parameter(torch.full((3,), 0.5)), torch.nn.Parameter(torch.ones(4))]
        rules = fu.SGD.with_(lr=0.1, momentum=0.9), fu.AdamW.with_(lr=0.1)
        pairs = zip(params, rules, strict=True)
        optimizer = fu.torch.Partition([{"params": [p], "rule": rule} for p, rule in pairs])
        for _ in range(0 if first else 1):
            again(optimizer)
        hand_over(params, [torch.full((3,), 0.3), torch.full((4,), -0.2)])
        return optimizer

    def look(optimizer: Any) -> Any:
        """What a run depends on; a state that is all at its start is none."""
        kept = [named for _, p in sorted(optimizer.state_dict()["state"].items()) for named in sorted(p.items())]
        params = [p.detach() for group in optimizer.param_groups for p in group["params"]]
        return exactly([*params, *([t for _, t in kept] if any(t.any() for _, t in kept) else [])])

    def again(optimizer: Any) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        hand_over(params, [torch.full((3,), 0.1), torch.full((4,), 0.7)])
        optimizer.step()

    assert list(outcomes(made, lambda optimizer: optimizer.step(), look, again, of_each=1)) == []


def test_a_step_can_be_compiled_around() -> None:
    params, others = parameters(), parameters()
    optimizer, reference = make(RULES["matrices"], params), make(RULES["matrices"], others)
    compiled = torch.compile(optimizer.step, backend="eager")
    for seed in range(2):
        step(reference, others, seed)
        hand_over([*params.values()], [torch.from_numpy(g) for g in some(10 + seed).values()])
        compiled()
    assert_same_bits(values(params), values(others), "parameters")


@by_rules
def test_a_grad_scaler_scales_and_skips(rules: Any) -> None:
    params, others = parameters(), parameters()
    optimizer, reference = make(rules, params, clip_norm=0.5), make(rules, others, clip_norm=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=100)
    for seed in range(4):
        scaler.scale(torch.ones(()))
        grads = [torch.from_numpy(g) * scaler.get_scale() for g in some(10 + seed).values()]
        if seed == 1:
            grads[-1][0] = float("inf")
        else:
            step(reference, others, seed)
        hand_over([*params.values()], grads)
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 4.0
    assert_same_bits(values(params), values(others), "parameters")


def test_states_are_there_before_the_first_step_if_they_are_looked_for() -> None:
    """As torch.distributed.checkpoint does it: by a step with lr and gradients of zero."""
    params = parameters()
    optimizer = make(RULES["matrices"], params)
    before = kept(params)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    hand_over([*params.values()], [torch.zeros_like(p) for p in params.values()])
    optimizer.step()
    assert [sorted(optimizer.state[p]) for p in params.values()] == [
        ["momentum_buffer"] if name.endswith(".w") else ["exp_avg", "exp_avg_sq", "step"] for name in SHAPES
    ]
    assert optimizer.state[params["embed"]]["step"] == 0
    assert_same_bits(values(params), before, "parameters")


# -- refusals ---------------------------------------------------------------------------------------------------------


def _p(*shape: int) -> Any:
    return torch.nn.Parameter(torch.ones(shape))


def _shared() -> Any:
    p = _p(4, 2)
    q = torch.nn.Parameter(p.detach()[1:])
    p.grad, q.grad = torch.ones(4, 2), torch.ones(3, 2)
    optimizer = fu.torch.Partition([{"params": [p], "rule": "sgd"}, {"params": [q], "rule": "adamw"}])
    optimizer.step()


def _loaded() -> Any:
    state = fu.torch.AdamW([_p(3)]).state_dict()
    fu.torch.Partition([{"params": [_p(3)], "rule": "adamw"}]).load_state_dict(state)


def _exchanged() -> Any:
    """Groups of the same shapes, in another order: each would take the other's states."""
    first, second = (
        fu.torch.Partition([{"params": [_p(3)], "rule": rule} for rule in rules])
        for rules in (("adamw", "sgd"), ("sgd", "adamw"))
    )
    second.load_state_dict(first.state_dict())


def _twice() -> Any:
    p = _p(3)
    fu.torch.Partition([{"params": [p], "rule": "sgd"}, {"params": [p], "rule": "adamw"}])


def _of(rule: Any, **rest: Any) -> Any:
    return lambda: fu.torch.Partition([{"params": [_p(3)], "rule": rule, **rest}])


def _within_backward() -> Any:
    model = torch.nn.Linear(2, 2)
    fu.torch.in_backward(model, fu.torch.Muon(model.parameters(), others=fu.SGD))


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "no rule": (lambda: fu.torch.Partition([_p(3)]), TypeError, r'\[partition\] params: expected groups \{"params"'),
    "a model": (lambda: fu.torch.Partition(torch.nn.Linear(2, 2)), TypeError, r"\[partition\] params: .*Linear"),
    "a model in a group": (
        lambda: fu.torch.Partition([{"params": torch.nn.Linear(2, 2), "rule": "sgd"}]),
        TypeError,
        r"\[sgd\] params: expected model.parameters\(\)",
    ),
    "unknown rule": (_of("adamx"), TypeError, r"\[partition\] rule: expected an optimizer class.*received 'adamx'"),
    "no recipe": (_of(3), TypeError, r"\[partition\] rule: expected an optimizer class.*received 3"),
    "option": (_of(fu.AdamW.with_(clip_norm=1.0)), TypeError, r"\[adamw\] clip_norm: no such argument of a rule"),
    "misspelt": (_of(fu.AdamW.with_(wd=1.0)), TypeError, r"\[adamw\] wd: no such argument of a rule in a partition"),
    "schedule": (_of(fu.AdamW.with_(lr=lambda t: 0.1)), TypeError, r"\[adamw\] lr: expected a number, set by a sched"),
    "value": (_of("adamw", lr=-1.0), ValueError, r"\[adamw\] lr: expected a finite number ≥ 0, received -1.0"),
    "options": (
        lambda: fu.torch.Partition([{"params": [_p(3)], "rule": "sgd"}], clip_nrm=1.0),
        TypeError,
        r"\[partition\] clip_nrm: no such option, did you mean clip_norm",
    ),
    "groups": (
        lambda: fu.torch.Partition([{"params": [_p(3)], "rule": "sgd"}], groups=[]),
        ValueError,
        r"\[partition\] groups: expected None",
    ),
    "shared memory": (_shared, ValueError, "memory"),
    "twice": (_twice, ValueError, "more than one parameter group"),
    "loaded": (_loaded, ValueError, r"\['param_groups'\]\[0\]\['rule'\]: expected 'adamw', as .*, received none"),
    "exchanged": (_exchanged, ValueError, r"\['param_groups'\]\[0\]\['rule'\]: expected 'sgd', as .* received 'adamw'"),
    "within backward": (_within_backward, TypeError, r"\[in_backward\] optimizer: expected an optimizer of one rule"),
    "pattern": (
        lambda: fu.torch.Muon([("w", _p(2, 2))], others=("x*", fu.SGD)),
        ValueError,
        r"\[muon\] others: expected a pattern that matches a parameter",
    ),
    "positional": (
        lambda: fu.torch.Muon([_p(2, 2)], *arguments(fu.Muon.rule).values(), fu.SGD),
        TypeError,
        "positional",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_partition_is_refused_by_name(name: str) -> None:
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("way", ["torch", "arrays"])
def test_tensors_that_come_to_share_memory_between_rules_are_refused(way: str) -> None:
    """Each rule's own tensors lie apart; those of two rules may be made to overlap after a step."""
    a, b = (torch.nn.Parameter(torch.zeros(4, 4)) for _ in range(2))
    kinds = fu.SGD.with_(lr=1.0), fu.AdamW.with_(lr=1.0)
    optimizer: Any = (
        fu.torch.Partition([{"params": [p], "rule": kind} for p, kind in zip((a, b), kinds, strict=True)])
        if way == "torch"
        else fu.Partition({"a": a, "b": b}, [("a", kinds[0]), ("b", kinds[1])])
    )
    a.grad, b.grad = torch.ones(4, 4), torch.ones(4, 4)
    optimizer.step()
    b.data = a.data
    before = a.detach().clone()
    with pytest.raises(ValueError, match="expected memory apart"):
        optimizer.step()
    assert torch.equal(a.detach(), before)
    b.data = torch.zeros(4, 4)
    optimizer.step()
    assert not torch.equal(a.detach(), before)
