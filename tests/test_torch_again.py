"""A step of fastupdate.torch that is like the one before is one native call, and leaves what a closer look would."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from peers import file_needs, peer
from test_torch_interference import INTERFERENCES
from torch_cases import hand_over, parameters, tensors, torch
from torch_runs import STEPS, steps

import fastupdate as fu
from fastupdate.engines.choose import native_problem

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(native_problem() is not None, reason=f"no native engine: {native_problem()}"),
]
file_needs("torch")

Optimizer = Any


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


def begun(**options: Any) -> tuple[Optimizer, list[Any], list[Any]]:
    """An optimizer, its parameters, and which steps were taken by the one call."""
    params, taken = parameters(1), list[bool]()
    optimizer = fu.torch.AdamW(params, lr=0.01, weight_decay=0.1, **options)
    steps(optimizer, params, 0)
    return optimizer, params, taken


def noting(optimizer: Optimizer, taken: list[bool]) -> None:
    """Has the next call that takes a step noted."""
    again = optimizer._again
    if again is None:
        taken.append(False)
        return

    def noted(optimizer: Optimizer) -> Any:
        report = again(optimizer)
        taken.append(report is not None)
        return report

    optimizer._again = noted


def closely(optimizer: Optimizer, taken: list[bool]) -> None:
    """Has nothing taken for granted."""
    optimizer._again = None


def outcome(optimizer: Optimizer, params: list[Any]) -> list[Any]:
    states = [x for p in params for x in optimizer.state.get(p, {}).values()]
    found = [x.detach().numpy().tobytes() for x in [*params, *states] if isinstance(x, torch.Tensor)]
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return [found, groups, optimizer.report.step]


def _no_gradient(optimizer: Optimizer, params: list[Any]) -> None:
    params[1].grad = None


def _no_gradients(optimizer: Optimizer, params: list[Any]) -> None:
    for p in params:
        p.grad = None


def _transposed_gradient(optimizer: Optimizer, params: list[Any]) -> None:
    params[1].grad = params[1].grad.T.contiguous().T


def _scaled(optimizer: Optimizer, params: list[Any]) -> None:
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)


def _found_inf(optimizer: Optimizer, params: list[Any]) -> None:
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(1.0)


def _infinite(optimizer: Optimizer, params: list[Any]) -> None:
    params[1].grad[0] = torch.inf


def _nothing(optimizer: Optimizer, params: list[Any]) -> None:
    pass


BEFORE_A_STEP = [
    _no_gradient, _no_gradients, _transposed_gradient, _scaled, _found_inf, _infinite,
]  # fmt: skip
OPTIONS: list[dict[str, Any]] = [{}, {"clip_norm": 0.5, "nonfinite": "skip"}, {"ema_decay": 0.9}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("change", [_nothing, *INTERFERENCES, *BEFORE_A_STEP])
def test_a_step_like_the_one_before_leaves_what_a_close_look_would(
    change: Callable[[Optimizer, list[Any]], None], options: dict[str, Any]
) -> None:
    if change is _infinite and "nonfinite" not in options:
        pytest.skip("an option says what becomes of such a gradient")
    found = []
    for prepare in (noting, closely):
        optimizer, params, taken = begun(**options)
        for k in range(STEPS, 2 * STEPS + 1):
            if k == STEPS + 1 and change in INTERFERENCES:
                change(optimizer, params)
            hand_over(params, tensors(2 + k))
            if k == STEPS + 1 and change in BEFORE_A_STEP:
                change(optimizer, params)
            prepare(optimizer, taken)
            optimizer.step()
            optimizer.grad_scale = optimizer.found_inf = None
        found.append(outcome(optimizer, params))
        if prepare is noting:
            assert taken[0], "nothing was taken for granted"
            assert change is not _nothing or all(taken)
    assert found[0] == found[1]


def test_a_scheduler_leaves_steps_alike() -> None:
    optimizer, params, taken = begun()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for k in range(5):
        hand_over(params, tensors(2 + k))
        noting(optimizer, taken)
        optimizer.step()
        scheduler.step()
    assert sum(taken) >= 4, taken  # torch's scheduler changes a group when it is made


def test_who_asks_to_be_told_of_steps_is_told() -> None:
    optimizer, params, _ = begun()
    module, called = import_module("torch.optim.optimizer"), []
    hand_over(params, tensors(9))
    for name, register in (
        ("pre", optimizer.register_step_pre_hook),
        ("post", optimizer.register_step_post_hook),
        ("every pre", module.register_optimizer_step_pre_hook),
        ("every post", module.register_optimizer_step_post_hook),
    ):
        optimizer.step()  # as nobody asks for now
        hook = register(lambda *_, name=name: called.append(name))
        optimizer.step()
        hook.remove()
    assert called == ["pre", "post", "every pre", "every post"]
    optimizer.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    assert "Optimizer.step#AdamW.step" in {event.key for event in profile.key_averages()}


def test_an_optimizer_that_its_parameters_lead_to_is_collected() -> None:
    optimizer, params, _ = begun()
    params[0].held_by = optimizer
    assert optimizer._again is not None
    gone = weakref.ref(optimizer)
    del optimizer, params
    gc.collect()
    assert gone() is None
