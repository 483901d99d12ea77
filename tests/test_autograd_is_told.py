"""Autograd is told of each tensor that a call writes, and of no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import by_backend
from peers import Module

import fastupdate as fu
from fastupdate import functional
from fastupdate.engines import choose

torch: Any = Module("torch")
needs_torch = pytest.mark.peer


def parameter(values: Any) -> Any:
    return torch.nn.Parameter(torch.as_tensor(values, dtype=torch.float32))


def versions(*tensors: Any) -> list[int]:
    return [t._version for t in tensors]


def stepped(opt: Any, p: Any) -> None:
    p.grad = torch.ones_like(p)
    opt.step()


def averaged(opt: Any, p: Any) -> None:
    with opt.ema_weights():
        pass


WRITES: dict[str, tuple[Callable[[Any, Any], None], int]] = {  # how often it writes the parameter
    "step": (stepped, 1),
    "ema_weights": (averaged, 2),
    "load_state_dict": (lambda opt, p: opt.load_state_dict(opt.state_dict()), 1),
}


@needs_torch
@by_backend
@pytest.mark.parametrize("write", WRITES)
def test_a_graph_that_saved_a_parameter_is_not_run_after_it_was_written(backend: str, write: str) -> None:
    w, x = parameter([2.0]), torch.ones(1, requires_grad=True)
    opt = fu.SGD([w], lr=1.0, ema_decay=0.9, backend=backend)
    act, times = WRITES[write]
    y = w * x
    before = w._version
    act(opt, w)
    assert w._version >= before + times
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@needs_torch
@by_backend
def test_zeroed_gradients_and_given_states_are_told_of_too(backend: str) -> None:
    p, g, m = parameter(np.ones(3)), torch.ones(3), torch.zeros(3)
    opt = fu.Momentum([p], lr=0.1, state=[[m]], zero_grads=True, backend=backend)
    opt.accumulate([g])
    assert versions(p, g, m) == [0, 1, 0]
    opt.step()
    assert versions(p, g, m) == [1, 1, 1]
    g.fill_(1.0)
    opt.step([g])
    assert versions(p, g, m) == [2, 3, 2]
    assert g.tolist() == [0.0] * 3


@needs_torch
@by_backend
def test_what_writes_nothing_tells_nothing(backend: str) -> None:
    p = parameter(np.ones(3))
    opt = fu.SGD([p], lr=0.1, nonfinite="skip", backend=backend)
    p.grad = torch.full((3,), torch.inf)
    assert opt.step().skipped
    with pytest.raises(TypeError, match="float32"):
        opt.step([torch.ones(3, dtype=torch.float64)])
    opt.state_dict()
    assert p._version == 0


@needs_torch
@by_backend
def test_gradients_that_a_skipped_step_zeroes_are_told_of(backend: str) -> None:
    p, g = parameter(np.ones(3)), torch.full((3,), torch.inf)
    opt = fu.SGD([p], lr=0.1, nonfinite="skip", zero_grads=True, backend=backend)
    assert opt.step([g]).skipped
    assert (versions(p, g), g.tolist()) == ([0, 1], [0.0] * 3)


@needs_torch
def test_a_torch_that_takes_one_tensor_at_a_time_is_told_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def increment_version(tensor: Any) -> None:
        if not isinstance(tensor, torch.Tensor):
            raise TypeError("increment_version(): argument 'tensor' must be Tensor, not tuple")
        told.append(tensor)

    monkeypatch.setattr(torch.autograd.graph, "increment_version", increment_version)
    monkeypatch.setattr(choose._load(choose.default_name()), "reads", lambda tensor: False)  # as with that torch
    params = [parameter(np.ones(3)) for _ in range(2)]
    for p in params:
        p.grad = torch.ones(3)
    fu.SGD(params, lr=0.1).step()
    assert [t is p for t, p in zip(told, params, strict=True)] == [True, True]


@needs_torch
def test_functional_calls_tell_autograd() -> None:
    p, g, v = torch.ones(3), torch.ones(3), torch.zeros(3)
    functional.momentum(p, g, v, step=1, lr=0.1)
    assert versions(p, g, v) == [1, 0, 1]
