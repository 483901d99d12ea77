"""Scaling and clipping, compared with other libraries or a formula; test_options.py has the bits of each option."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import assert_same_bits, by_backend, by_dtype, by_rule, fingerprint, gradients, random_arrays
from peers import peer
from tolerances import NORM

import fastupdate as fu

SIZES = [1, 7, 33, 1024, 2500]
STEPS = 5


def moved_by(grads: list[np.ndarray], backend: str, loss_scale: float = 1.0, **options: Any) -> list[np.ndarray]:
    """The gradients that a rule sees: plain descent from zero by 1."""
    params = [np.zeros_like(g) for g in grads]
    fu.SGD(params, lr=1.0, backend=backend, **options).step(grads, loss_scale=loss_scale)
    return [-p for p in params]


@by_dtype
@by_backend
@by_rule
def test_loss_scale(case, backend, dtype):
    """A power of two, as loss scales are, leaves no trace."""
    grads = random_arrays(3, SIZES, dtype)
    results = []
    for scale in (1.0, 65536.0):
        params = random_arrays(1, SIZES, dtype)
        case.make(params, backend=backend).step([g * dtype(scale) for g in grads], loss_scale=scale)
        results.append(params)
    assert_same_bits(*results, "params")


@by_dtype
@by_backend
@by_rule
def test_maximize(case, backend, dtype):
    """Ascent along g is descent along −g."""
    grads = random_arrays(3, SIZES, dtype)
    results = []
    for sign, maximize in ((1, True), (-1, False)):
        params = random_arrays(1, SIZES, dtype)
        case.make(params, backend=backend, maximize=maximize).step([sign * g for g in grads])
        results.append(params)
    assert_same_bits(*results, "params")


@pytest.mark.peer
@pytest.mark.parametrize("limit", [0.1, 100.0, 1e6])
@by_dtype
@by_backend
def test_clip_norm(backend, dtype, limit):
    torch = peer("torch")
    grads = random_arrays(3, SIZES, dtype)
    theirs = [torch.zeros(g.size, dtype=getattr(torch, g.dtype.name), requires_grad=True) for g in grads]
    for p, g in zip(theirs, grads, strict=True):
        p.grad = torch.from_numpy(g.copy())
    norm = torch.nn.utils.clip_grad_norm_(theirs, limit)
    report = fu.SGD([np.zeros_like(g) for g in grads], clip_norm=limit, backend=backend).step(grads)
    assert report.grad_norm == pytest.approx(float(norm), rel=NORM[dtype])
    for mine, p in zip(moved_by(grads, backend, clip_norm=limit), theirs, strict=True):
        np.testing.assert_allclose(mine, p.grad.numpy(), rtol=NORM[dtype])


@pytest.mark.peer
@by_dtype
@by_backend
def test_clip_tensor_norm(backend, dtype):
    torch = peer("torch")
    grads = random_arrays(3, SIZES, dtype)
    for mine, g in zip(moved_by(grads, backend, clip_tensor_norm=2.0), grads, strict=True):
        p = torch.zeros(g.size, dtype=getattr(torch, g.dtype.name), requires_grad=True)
        p.grad = torch.from_numpy(g.copy())
        torch.nn.utils.clip_grad_norm_([p], 2.0)
        np.testing.assert_allclose(mine, p.grad.numpy(), rtol=NORM[dtype])


@pytest.mark.peer
@by_dtype
@by_backend
def test_clip_value(backend, dtype):
    """After scaling, as in `clip_grad_value_` on unscaled gradients; NaN stays NaN."""
    torch = peer("torch")
    grads = random_arrays(3, SIZES, dtype)
    grads[1][3] = np.nan
    theirs = [torch.zeros(g.size, dtype=getattr(torch, g.dtype.name), requires_grad=True) for g in grads]
    for p, g in zip(theirs, grads, strict=True):
        p.grad = torch.from_numpy(g.copy())
    torch.nn.utils.clip_grad_value_(theirs, 0.7)
    scaled = [g * dtype(8) for g in grads]
    assert_same_bits(
        moved_by(scaled, backend, clip_value=0.7, loss_scale=8.0), [p.grad.numpy() for p in theirs], "clipped"
    )


PAIRS = [(-0.3, 1.2), (0.1, 0.5), (-2.0, -0.5), (-np.inf, 0.2), (-0.1, np.inf), (0.4, 0.4), (0.05, 1e300)]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@by_dtype
@by_backend
def test_clip_value_between_two_is_numpys(backend, dtype, pair):
    """As `np.clip`, after scaling; NaN stays NaN."""
    grads = random_arrays(3, SIZES, dtype)
    grads[1][3] = np.nan
    with np.errstate(over="ignore"):
        expected = [np.clip(g, dtype(pair[0]), dtype(pair[1])) for g in grads]
    scaled = [g * dtype(8) for g in grads]
    assert_same_bits(moved_by(scaled, backend, clip_value=pair, loss_scale=8.0), expected, "clipped")


@by_backend
def test_clip_value_may_be_scheduled_set_and_grouped(backend):
    """Each limit by itself, a number in place of both, and other limits for some tensors."""
    g, (p, q) = np.array([-9.0, -1.0, 1.0, 9.0]), np.zeros((2, 4))
    limits = (lambda t: -1.0 - t, fu.schedules.linear(3.0, 2, 5.0))
    group = {"params": ["1"], "clip_value": (-np.inf, 0.5)}
    opt = fu.SGD([p, q], lr=1.0, clip_value=limits, groups=[group], backend=backend)
    for low, high in ((-1.0, 3.0), (-2.0, 4.0)):
        p[:] = q[:] = 0.0
        opt.step([g, g])
        assert_same_bits([-p, -q], [np.clip(g, low, high), np.clip(g, -np.inf, 0.5)], "scheduled")
    state = opt.state_dict()
    again = fu.SGD([p, q], lr=1.0, clip_value=limits, groups=[group], backend=backend)
    again.load_state_dict(state)
    assert dict(again.groups[1]) == dict(opt.groups[1])
    for value, (low, high) in ((2.0, (-2.0, 2.0)), ((-5.0, 0.25), (-5.0, 0.25))):
        opt.clip_value = value
        p[:] = q[:] = 0.0
        opt.step([g, g])
        assert_same_bits([-p, -q], [np.clip(g, low, high)] * 2, str(value))


@pytest.mark.parametrize(
    "pair", [(0.5, -0.5), (lambda t: 0.5, 0.25), (0.5, lambda t: 0.25)], ids=["numbers", "low", "high"]
)
@by_backend
def test_clip_value_whose_limits_cross(backend, pair):
    with pytest.raises(
        ValueError, match=r"\[adam\] clip_value: expected \(low, high\) with low ≤ high, received \(0.5, "
    ):
        fu.Adam(random_arrays(1, SIZES, np.float32), clip_value=pair, backend=backend)
    opt = fu.Adam(random_arrays(1, SIZES, np.float32), backend=backend)
    grads = random_arrays(2, SIZES, np.float32)
    opt.step(grads)
    opt.clip_value = pair
    before = fingerprint(opt, *grads)
    with pytest.raises(ValueError, match=r"clip_value: expected \(low, high\) with low ≤ high"):
        opt.step(grads)
    assert fingerprint(opt, *grads) == before


@pytest.mark.parametrize("pair", [(1e39, np.inf), (-np.inf, -1e39)], ids=str)
@by_backend
def test_clip_value_beyond_the_type(backend, pair):
    """All gradients would become infinite."""
    with pytest.raises(ValueError, match="clip_value: expected limits that float32 can hold"):
        fu.Adam(random_arrays(1, SIZES, np.float32), clip_value=pair, backend=backend)


@pytest.mark.peer
@pytest.mark.parametrize("shape", [(30, 7), (3, 3, 4, 9), (50,), ()], ids=str)
@by_backend
def test_clip_unit_norm(backend, shape):
    """optax' units lie along the last axis, ours along the first."""
    jax, optax = peer("jax"), peer("optax")
    rng = np.random.default_rng(0)
    p, g = (np.array(rng.standard_normal(shape) * np.exp(rng.standard_normal(shape)), np.float32) for _ in range(2))
    agc = optax.adaptive_grad_clip(0.3)
    theirs, _ = agc.update(jax.numpy.array(g), agc.init(p), jax.numpy.array(p))
    before = p.copy()
    first = np.ascontiguousarray(np.moveaxis(p, -1, 0)) if p.ndim > 1 else p
    moved = np.ascontiguousarray(np.moveaxis(g, -1, 0)) if p.ndim > 1 else g
    fu.SGD([first], lr=1.0, clip_unit_norm=0.3, backend=backend).step([moved])
    mine = before - (np.moveaxis(first, 0, -1) if p.ndim > 1 else first)
    np.testing.assert_allclose(mine, np.asarray(theirs), rtol=1e-4, atol=1e-6)  # a difference of weights
    assert not np.allclose(mine, g), "nothing was clipped"


@pytest.mark.parametrize("option", ["clip_norm", "clip_tensor_norm", "clip_unit_norm"])
@pytest.mark.parametrize("kind", ["function", "schedule"])
@by_backend
@by_rule
def test_scheduled_clipping(case, backend, kind, option):
    """Each step clips to the number of its own, as if it had been set for it."""
    schedule = fu.schedules.exponential(0.5, gamma=0.6) if kind == "schedule" else lambda step: 0.5 * 0.6**step
    params, expected = random_arrays(1, SIZES, np.float32), random_arrays(1, SIZES, np.float32)
    opt = case.make(params, backend=backend, **{option: schedule})
    factors, state = [], None
    for k, grads in enumerate(gradients(2, STEPS, SIZES, np.float32)):
        by_hand = case.make(expected, backend=backend, **{option: float(schedule(k))})
        if state:
            by_hand.load_state_dict(state)
        by_hand.step(grads)
        state = by_hand.state_dict()
        factors.append(opt.step(grads).clip_factor)
        assert_same_bits(params, expected, f"step {k}")
    assert len(set(factors)) == (STEPS if option == "clip_norm" else 1)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, "1", None, True], ids=repr)
@pytest.mark.parametrize("option", ["clip_norm", "clip_tensor_norm", "clip_unit_norm"])
@by_backend
def test_scheduled_clipping_is_checked_in_its_step(backend, option, value):
    schedule = {option: lambda step: [1.0, value, 2.0][step]}
    opt = fu.Adam(random_arrays(1, SIZES, np.float32), backend=backend, **schedule)
    grads = random_arrays(2, SIZES, np.float32)
    opt.step(grads)
    before = fingerprint(opt, *grads)
    with pytest.raises((TypeError, ValueError), match=rf"\[adam\] {option}: expected a finite number > 0, received"):
        opt.step(grads)
    assert fingerprint(opt, *grads) == before
