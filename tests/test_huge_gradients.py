"""Gradients of which no factor or square of the type holds the size are clipped to the limit, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, by_backend, fingerprint
from device_arrays import FakeArray

import fastupdate as fu
from fastupdate.arrays.device import on_host

NARROW, WIDE = np.float32, np.float64

CLIPS = ["clip_norm", "clip_tensor_norm", "clip_unit_norm"]
FACTORS = {  # of a tensor of zeros, whose units have a weight norm of 10⁻³: what its gradient is, and its norm is to be
    "no factor in float32": (NARROW, 3e38, 1e-7),
    "few digits in float32": (NARROW, 3e37, 1e-3),
    "a subnormal step": (NARROW, 3e38, 1e-41),
    "a small factor of large squares": (WIDE, 1e160, 1e-7),
    "large squares": (WIDE, 2e200, 1.5),
    "no norm in float64": (WIDE, 1.5e308, 1.0),
}


class Clipped:
    """SGD of lr = 1 with a limit, on any backend; a device's kernels run on the host."""

    def __init__(self, backend: str, params: list[np.ndarray], **limit: float) -> None:
        self.wrap, options = (FakeArray, {}) if backend == "cuda" else (np.array, {"backend": backend})
        self.opt = fu.SGD([self.wrap(p) for p in params], lr=1.0, **limit, **options)

    def step(self, *grads: np.ndarray) -> tuple[fu.Report, list[np.ndarray]]:
        """The report, and the weights after it."""
        report = self.opt.step([self.wrap(g) for g in grads])
        return report, [np.array(on_host(item.array)) for item in self.opt.stepper.items]


def from_zero(backend: str, option: str, dtype: Any, limit: float) -> Clipped:
    limit = limit / 1e-3 if option == "clip_unit_norm" else limit
    return Clipped(backend, [np.zeros((2, 1500), dtype), np.zeros(3, dtype)], **{option: limit})


by_backend_and_device = pytest.mark.parametrize("backend", [*BACKENDS, "cuda"])


@by_backend_and_device
@pytest.mark.parametrize("option", CLIPS)
@pytest.mark.parametrize(("dtype", "size", "limit"), FACTORS.values(), ids=FACTORS)
def test_limits_hold_however_large_gradients_are(dtype, size, limit, option, backend, shim) -> None:
    """Against the same by long doubles."""
    rng = np.random.default_rng(3)
    large = (size * rng.uniform(-1, 1, (2, 1500))).astype(dtype)
    small = np.ones(3, dtype)
    report, moved = from_zero(backend, option, dtype, limit).step(large, small)
    longer = [g.astype(np.longdouble) for g in (large, small)]
    norm = np.sqrt(sum(np.sum(g * g) for g in longer))
    if option == "clip_norm":
        np.testing.assert_allclose(report.grad_norm, float(norm), rtol=1e-12)
        expected = [g * min(limit / (norm + 1e-6), 1) for g in longer]
    elif option == "clip_tensor_norm":
        expected = [g * min(limit / (np.sqrt(np.sum(g * g)) + 1e-6), 1) for g in longer]
    else:
        units = [np.sqrt(np.sum(g * g, axis=-1, keepdims=True)) for g in longer]
        expected = [g * np.minimum(limit / n, 1) for g, n in zip(longer, units, strict=True)]
    for ours, theirs in zip(moved, expected, strict=True):
        floor = float(np.finfo(dtype).smallest_subnormal)
        rtol = 1e-6 if dtype is NARROW else 1e-9
        np.testing.assert_allclose(-ours, theirs.astype(np.float64), rtol=rtol, atol=4 * floor)


@by_backend_and_device
@pytest.mark.parametrize("dtype", [NARROW, WIDE])
@pytest.mark.parametrize("option", CLIPS)
def test_infinite_gradients_are_clipped_by_ieee(option, dtype, backend, shim) -> None:
    large = np.full((2, 1500), 1e30, dtype)
    large[0, 7] = np.inf
    _, (moved, small) = from_zero(backend, option, dtype, 1.0).step(large, np.ones(3, dtype))
    assert np.isnan(moved[0, 7])
    assert not moved[0, :7].any()  # a factor of 0
    assert moved[1].any() == (option == "clip_unit_norm")
    assert small.any() == (option != "clip_norm")


@by_backend_and_device
def test_large_weights_limit_their_units(backend, shim) -> None:
    """A unit's weight norm may be of squares that float64 does not hold, and its gradient's may or may not."""
    weights = np.stack([np.full(1500, 2e200), np.full(1500, 1e-3), np.full(1500, 3e170)])
    grads = np.stack([np.full(1500, 8e200), np.full(1500, 1e180), np.full(1500, 1e150)])
    _, (after,) = Clipped(backend, [weights], clip_unit_norm=0.5).step(grads)
    np.testing.assert_allclose(after, weights - np.minimum(grads, 0.5 * weights), rtol=1e-12)


@by_backend
def test_a_limit_that_float64_cannot_scale_down_to_is_refused(backend: str) -> None:
    for option in CLIPS:
        made = from_zero(backend, option, WIDE, 1e-20)
        before = fingerprint(made.opt)
        with pytest.raises(
            ValueError, match=rf"{option}: expected a limit that float64 can scale such large gradients"
        ):
            made.step(np.full((2, 1500), 1e308), np.ones(3))
        assert fingerprint(made.opt) == before


def test_sums_that_come_from_elsewhere_have_one_unit() -> None:
    """As those of gradients that were summed while they arrived."""
    made = from_zero("native", "clip_norm", WIDE, 1.0)
    plan = made.opt.stepper.plan
    plan.measured, plan.totals["gg"] = True, np.inf
    before = fingerprint(made.opt)
    with pytest.raises(ValueError, match=r"\[sgd\] grads: expected gradients of a norm below 1e154"):
        made.step(np.full((2, 1500), 1e160), np.ones(3))
    assert fingerprint(made.opt) == before
