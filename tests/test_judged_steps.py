"""Steps that clip by the norm of all gradients in the call that moves the tensors: as those that Python decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import FIRST_CASES, Case, arrays_of, assert_same_bits, by_dtype, random_arrays
from peers import peer

import fastupdate as fu
from fastupdate.step import whole

SIZES = [1, 7, 33, 1024, 2500, 0, 20000]
OPTIONS: dict[str, dict[str, Any]] = {
    "clipped": {"clip_norm": 3.0},
    "not reached": {"clip_norm": 1e9, "maximize": True},
    "far": {"clip_norm": 1e-37},
    "skip": {"nonfinite": "skip", "max_skips": 2},
    "raise": {"nonfinite": "raise", "clip_norm": 0.5, "ema_decay": 0.9},
}
SPOILT = {2: np.nan, 3: np.inf, 5: 1e30}  # an element, by step: not finite, or finite with a square that is not


def grads_of(step: int, dtype: Any) -> list[np.ndarray]:
    grads = random_arrays(2 + step, SIZES, dtype)
    grads[3][17] = SPOILT.get(step, grads[3][17]) * (dtype(1e170) if dtype is np.float64 and step == 5 else 1)
    return grads


def told(take: Callable[[], Any]) -> str:
    try:
        return repr(take().as_dict())  # NaN is like NaN
    except FloatingPointError as error:
        return str(error)


def twins(case: Case, dtype: Any, options: dict[str, Any]) -> list[Any]:
    return [case.make(random_arrays(1, SIZES, dtype), backend="native", **options) for _ in range(2)]


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows whenever Python decides a step."""
    counted: list[int] = []
    sum_up = whole.sum_up
    monkeypatch.setattr(whole, "sum_up", lambda plans: counted.append(1) or sum_up(plans))
    return counted


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("case", FIRST_CASES, ids=str)
@by_dtype
def test_bits_and_reports_are_those_of_a_step_that_python_decides(
    dtype: Any, case: Case, name: str, decided: list[int]
) -> None:
    quick, slow = twins(case, dtype, OPTIONS[name])
    for step in range(8):
        grads = grads_of(step, dtype)
        before = len(decided)
        found = told(lambda grads=grads: quick.step(grads))
        if step not in SPOILT and step - 1 not in SPOILT:
            assert len(decided) == before, "a plain step is one call"
        assert found == told(lambda grads=grads: slow.step(grads, loss_scale=1)), step  # an int: Python looks
        for kind, arrays in arrays_of(quick).items():
            assert_same_bits(arrays, arrays_of(slow)[kind], kind)
    assert len(decided) >= 8


def test_gradients_at_hand_are_clipped_in_one_call(decided: list[int]) -> None:
    params, grads = random_arrays(1, SIZES, np.float32), random_arrays(2, SIZES, np.float32)
    opt = fu.AdamW(params, clip_norm=0.5)
    opt.bind(grads)
    norm = float(np.sqrt(sum(np.square(g.astype(np.float64)).sum() for g in grads)))
    for step in range(1, 4):
        report = opt.step()
        assert (report.step, report.nonfinite, report.skipped) == (step, 0, False)
        assert report.grad_norm == pytest.approx(norm, rel=1e-12)
        assert report.clip_factor == 0.5 / (report.grad_norm + 1e-6)
    assert not decided


def test_a_limit_that_is_set_again_and_one_on_a_schedule_hold(decided: list[int]) -> None:
    """A schedule is asked in each step, and Python decides by it."""
    params = random_arrays(1, SIZES, np.float32)
    opt = fu.SGD(params, clip_norm=lambda step: 1.0 / (1 + step))
    for step in range(3):
        report = opt.step(random_arrays(2, SIZES, np.float32))
        assert report.clip_factor == 1.0 / (1 + step) / (report.grad_norm + 1e-6)
    assert len(decided) == 3


@pytest.mark.peer
def test_torch_parameters_are_clipped_in_one_call(decided: list[int]) -> None:
    torch = peer("torch")
    weights = [[torch.nn.Parameter(torch.from_numpy(p)) for p in random_arrays(1, SIZES, np.float32)] for _ in "ab"]
    ours = fu.torch.AdamW(weights[0], lr=0.1, clip_norm=0.5)
    theirs = fu.torch.AdamW(weights[1], lr=0.1)
    for step in range(3):
        for params in weights:
            for p, g in zip(params, random_arrays(2 + step, SIZES, np.float32), strict=True):
                p.grad = torch.from_numpy(g)
        before = [p._version for p in weights[0]]
        ours.step()
        assert [p._version for p in weights[0]] == [version + 1 for version in before]
        factor = ours.report.clip_factor
        for p in weights[1]:
            p.grad *= factor
        theirs.step()
        for p, q in zip(*weights, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    assert not decided
