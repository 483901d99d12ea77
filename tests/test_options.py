"""What belongs to a step beside the rule: scaling, clipping, decay, penalties, averages, copies, accumulation.

Every option is compared with another library or a formula, and then, for every rule and backend, with the bits of
reference.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import (
    arrays_of,
    assert_same_bits,
    by_backend,
    by_dtype,
    by_rule,
    cases_of,
    fingerprint,
    gradients,
    moderate_arrays,
    random_arrays,
)
from peers import peer
from reference import Reference
from tolerances import NORM, PEER, Drift

import fastupdate as fu

SIZES = [1, 7, 33, 1024, 2500]
STEPS = 5

EACH: dict[str, dict[str, Any]] = {
    "clip_norm": {"clip_norm": 3.0},
    "clip_norm-not-reached": {"clip_norm": 1e9},
    "clip_tensor_norm": {"clip_tensor_norm": 2.0},
    "clip_unit_norm": {"clip_unit_norm": 0.02},
    "clip_value": {"clip_value": 0.7},
    "coupled": {"decay": "coupled"},
    "decoupled": {"decay": "decoupled"},
    "independent": {"decay": "independent"},
    "l1-subgradient": {"l1": 0.05},
    "l1-proximal": {"l1": 0.05, "l1_mode": "proximal"},
    "ema_decay": {"ema_decay": 0.9},
    "float16": {"shadow": "float16"},
    "bfloat16": {"shadow": "bfloat16"},
    "lookahead": {"lookahead": (2, 0.5)},
    "zero_grads": {"zero_grads": True},
    "maximize": {"maximize": True},
    "monitor": {"monitor": True},
    "skip": {"nonfinite": "skip"},
}


@pytest.mark.parametrize("option", EACH)
@by_dtype
@by_backend
@by_rule
def test_bits_of_the_reference(case, backend, dtype, option):
    params = random_arrays(1, SIZES, dtype)
    reference = Reference(case, params, **EACH[option])
    opt = case.make(params, backend=backend, **EACH[option])
    for grads in gradients(2, STEPS, SIZES, dtype):
        reference.step(grads, loss_scale=3.0)
        report = opt.step(grads, loss_scale=3.0)
        assert report.clip_factor == reference.clip_factor
        assert report.grad_norm == reference.grad_norm
        assert option != "zero_grads" or not any(g.any() for g in grads)
    for kind, values in reference.arrays().items():
        assert_same_bits(arrays_of(opt)[kind], values, kind)


def moved_by(grads: list[np.ndarray], backend: str, loss_scale: float = 1.0, **options: Any) -> list[np.ndarray]:
    """The gradients that a rule sees: plain descent from zero by 1."""
    params = [np.zeros_like(g) for g in grads]
    fu.SGD(params, lr=1.0, backend=backend, **options).step(grads, loss_scale=loss_scale)
    return [-p for p in params]


# -- scale and clip ---------------------------------------------------------------------------------------------------


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


# -- skipped steps and loss scales ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3])
@by_backend
def test_a_limit_on_skipped_steps_in_a_row(backend, limit):
    p = np.ones(3)
    opt = fu.SGD({"w": p, "b": np.ones(2)}, backend=backend, nonfinite="skip", max_skips=limit)
    good, bad = ({"w": np.full(3, x), "b": np.ones(2)} for x in (0.5, np.inf))
    for _ in range(2):
        for _ in range(limit):
            assert opt.step(bad).skipped
        for _ in range(2):  # one more, and again
            before = fingerprint(opt)
            words = rf"\[sgd\] grads\['w'\]: expected finite values after {limit} skipped steps in a row \(max_skips\)"
            with pytest.raises(FloatingPointError, match=words):
                opt.step(bad)
            assert fingerprint(opt) == before
        assert not opt.step(good).skipped  # and the count starts afresh
    assert opt.step_count == 2


def test_skipped_micro_batches_count_as_one_step():
    opt = fu.SGD([np.ones(3)], nonfinite="skip", max_skips=1)
    for error in (None, FloatingPointError):
        for _ in range(3):
            opt.accumulate([np.full(3, np.nan)])
        if error is None:
            assert opt.step().skipped
            continue
        with pytest.raises(error, match="after 1 skipped steps"):
            opt.step()
    opt.accumulate([np.ones(3)])
    assert not opt.step().skipped


SCALERS = {
    "defaults": {},
    "eager": {"init": 64.0, "growth_factor": 4.0, "backoff_factor": 0.25, "growth_interval": 2},
    "patient": {"init": np.float32(2.0), "growth_interval": np.int64(5)},
}


@pytest.mark.parametrize("arguments", SCALERS.values(), ids=SCALERS)
def test_loss_scale_equals_torch(arguments):
    """GradScaler's scale over 200 steps, some of whose gradients are not finite, and as much after resuming."""
    torch = peer("torch")
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in arguments.items()}
    theirs = torch.amp.GradScaler("cpu", init_scale=plain.pop("init", 2.0**16), **plain)
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], lr=0.0)
    ours, opt = fu.LossScale(**arguments), fu.SGD([np.ones(3, np.float32)], lr=0.0, nonfinite="skip")
    values = set()
    for step, bad in enumerate(np.random.default_rng(0).random(200) < 0.15):
        theirs.scale(torch.zeros(())).item()
        p.grad = torch.full((3,), np.inf if bad else 1.0)
        theirs.step(optimizer)
        theirs.update()
        ours.update(opt.step([np.full(3, np.inf if bad else 1.0, np.float32)], loss_scale=ours.value))
        assert ours.value == theirs.get_scale()
        values.add(ours.value)
        if step == 100:
            resumed = fu.LossScale(**arguments)
            resumed.load_state_dict(ours.state_dict())
            ours = resumed
    assert len(values) > 3


def test_a_loss_scale_stays_where_float32_can_invert_it():
    opt = fu.SGD([np.ones(3, np.float32)], lr=0.0, nonfinite="skip")
    for grad, start, end in ((1.0, 2.0**125, 2.0**126), (np.nan, 2.0**-125, 2.0**-126)):
        scale = fu.LossScale(start, growth_interval=1)
        for _ in range(3):
            scale.update(opt.step([np.full(3, grad, np.float32)], loss_scale=scale.value))
        assert scale.value == end


WRONG_SCALES = {
    "init": (lambda: fu.LossScale(0), ValueError, "init: expected a number in"),
    "growth": (lambda: fu.LossScale(growth_factor=1.0), ValueError, "growth_factor: expected a finite number > 1"),
    "backoff": (lambda: fu.LossScale(backoff_factor=1.0), ValueError, r"backoff_factor: expected a number in \(0, 1\)"),
    "interval": (lambda: fu.LossScale(growth_interval=0), ValueError, "growth_interval: expected an integer ≥ 1"),
    "report": (
        lambda: fu.LossScale().update(fu.SGD([np.ones(3)]).step([np.ones(3)])),
        ValueError,
        "report: expected one of an optimizer with nonfinite='skip', received",
    ),
    "state": (
        lambda: fu.LossScale().load_state_dict({"value": 1.0}),
        ValueError,
        "state: expected the keys value, good",
    ),
    "value": (lambda: fu.LossScale().load_state_dict({"value": np.nan, "good": 1}), ValueError, "value: expected"),
}


@pytest.mark.parametrize(("call", "error", "message"), WRONG_SCALES.values(), ids=WRONG_SCALES)
def test_wrong_arguments_of_loss_scales(call, error, message):
    with pytest.raises(error, match=rf"\[LossScale\] {message}"):
        call()


# -- decay and penalties ----------------------------------------------------------------------------------------------

DECAYS = [("adam", "decoupled", "AdamW"), ("adamw", "coupled", "Adam"), ("adamw", "decoupled", "AdamW")]


@pytest.mark.peer
@pytest.mark.parametrize(("rule", "decay", "theirs"), DECAYS, ids=[f"{r}-{d}" for r, d, _ in DECAYS])
@by_dtype
@by_backend
def test_decay_of_another_kind(backend, dtype, rule, decay, theirs):
    """Adam whose decay is decoupled is AdamW, and the other way round."""
    torch = peer("torch")
    case = cases_of(rule)[0]
    p = moderate_arrays(1, [200], dtype)[0]
    q = torch.tensor(p)
    drift = Drift(p)
    optimizer = getattr(torch.optim, theirs)([q], **case.kwargs)
    opt = case.make([p], decay=decay, backend=backend)
    for k in range(12):
        g = moderate_arrays(2 + k, [200], dtype)
        q.grad = torch.from_numpy(g[0].copy())
        optimizer.step()
        opt.step(g)
        drift.compare(p, q.numpy())
    assert drift.worst <= PEER


@by_backend
@by_rule
def test_independent_decay(case, backend):
    """w ← (1 − λ)w whatever the learning rate: with none, decay is all that happens."""
    p = np.linspace(-2, 2, 50)
    case.make([p], lr=0.0, decay="independent", weight_decay=0.25, backend=backend).step([np.ones(50)])
    np.testing.assert_array_equal(p, np.linspace(-2, 2, 50) * 0.75)


@by_backend
def test_l1_subgradient(backend):
    p = np.array([2.0, -2.0, 0.0, -0.0])
    fu.SGD([p], lr=0.5, l1=0.25, backend=backend).step([np.zeros(4)])
    assert p.tolist() == [1.875, -1.875, 0.0, 0.0]


@by_backend
@by_rule
def test_l1_proximal(case, backend):
    """Soft thresholding by α·l1 after the rule: small weights become exactly zero, and stay so without gradient."""
    options = {"lr": 0.5, "weight_decay": 0.0, "l1": 0.25, "l1_mode": "proximal", "backend": backend}
    p = np.array([2.0, -2.0, 0.125, -0.125, 0.1, -0.1, 0.0, np.nan])
    opt = case.make([p], **options)
    opt.step([np.zeros(8)])
    np.testing.assert_array_equal(p, [1.875, -1.875, 0.0, 0.0, 0.0, 0.0, 0.0, np.nan])
    for _ in range(20):
        opt.step([np.zeros(8)])
    np.testing.assert_array_equal(p, [0.0] * 7 + [np.nan])


# -- what follows the weights -----------------------------------------------------------------------------------------


@pytest.mark.peer
@by_dtype
@by_backend
@by_rule
def test_ema(case, backend, dtype):
    torch = peer("torch")
    p = moderate_arrays(1, [100], dtype)[0]
    module = torch.nn.Module()
    module.p = torch.nn.Parameter(torch.from_numpy(p))  # shares its memory
    average = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    average.update_parameters(module)  # the first only copies
    opt = case.make([p], ema_decay=0.9, backend=backend)
    drift = Drift(p)
    for k in range(12):
        opt.step(moderate_arrays(2 + k, [100], dtype))
        average.update_parameters(module)
        drift.compare(opt.ema[0], average.module.p.detach().numpy())
    assert drift.worst <= PEER


@by_backend
def test_ema_as_the_average_of_swa(backend):
    """Weights from step 3 on, averaged (Izmailov et al. 2018): what docs/options.md says of `swa`."""
    p, history = np.linspace(1, 2, 50), []
    opt = fu.SGD([p], lr=0.1, backend=backend, ema_decay=lambda t: (n := max(t - 3, 0)) / (n + 1))
    for k in range(9):
        opt.step(moderate_arrays(k, [50], np.float64))
        history.append(p.copy())
        np.testing.assert_allclose(opt.ema[0], np.mean(history[min(k, 3) :], axis=0), rtol=1e-14)


def neighbourhoods(narrow: np.ndarray) -> np.ndarray:
    """float32 around every value of a 16-bit type: itself, halfway to the next, and one ulp to both sides of each."""
    exact = narrow[np.isfinite(narrow)].astype(np.float32)
    exact = np.unique(exact[exact >= 0])
    halfway = (exact[:-1].astype(np.float64) + np.diff(exact.astype(np.float64)) / 2).astype(np.float32)
    beyond = np.float32([2 * exact[-1] - exact[-2], 65519.996, 65520.0, 3.4e38, np.inf])
    with np.errstate(over="ignore"):
        centres = np.concatenate([exact, halfway, beyond, exact[-1:] + (exact[-1] - exact[-2]) / 2])
    around = [centres, np.nextafter(centres, np.float32(np.inf)), np.nextafter(centres, np.float32(-np.inf))]
    values = np.concatenate([*around, np.float32([1e-45, 2**-25, 2**-24, np.nan])])
    return np.concatenate([values, -values]).astype(np.float32)


@by_backend
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_shadow(backend, kind):
    """Rounded to nearest even around each of the 2¹⁶ values: subnormal, tie, overflow, infinity, NaN."""
    narrow = np.dtype(np.float16) if kind == "float16" else np.dtype(peer("ml_dtypes").bfloat16)
    every = np.arange(2**16).astype(np.uint16).view(narrow)
    bits = np.random.default_rng(0).integers(0, 2**32, 2**18, dtype=np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        values = np.concatenate([neighbourhoods(every.astype(np.float32)), bits])
        expected = values.astype(narrow)
    p = np.full_like(values, -0.0)  # −0 + x is x, for every x
    opt = fu.SGD([p], lr=1.0, shadow=kind, backend=backend)
    opt.step([-values])
    assert_same_bits(p, values, "params")
    actual = opt.shadow[0].view(narrow)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    np.testing.assert_array_equal(actual.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])


@by_backend
@by_rule
def test_lookahead(case, backend):
    """Zhang et al. (2019), algorithm 1: every k steps slow ← slow + α(fast − slow), and fast ← slow."""
    p = moderate_arrays(1, [60], np.float64)[0]
    slow, plain = p.copy(), p.copy()
    inner = case.make([plain], backend=backend)
    opt = case.make([p], lookahead=(3, 0.4), backend=backend)
    for k in range(1, 8):
        g = moderate_arrays(2 + k, [60], np.float64)
        opt.step(g)
        inner.step(g)
        if k % 3 == 0:
            slow = slow + 0.4 * (plain - slow)
            plain[:] = slow
        np.testing.assert_array_equal(p, plain, f"step {k}")


@pytest.mark.peer
@by_backend
def test_lookahead_of_optax(backend):
    jax, optax = peer("jax"), peer("optax")
    p = moderate_arrays(1, [60], np.float32)[0]
    chain = optax.lookahead(optax.sgd(0.05), sync_period=3, slow_step_size=0.4)
    theirs = optax.LookaheadParams.init_synced(jax.numpy.array(p))
    state = chain.init(theirs)
    opt = fu.SGD([p], lr=0.05, lookahead=(3, 0.4), backend=backend)
    drift = Drift(p)
    for k in range(12):
        g = moderate_arrays(2 + k, [60], np.float32)
        updates, state = chain.update(jax.numpy.array(g[0]), state, theirs)
        theirs = optax.apply_updates(theirs, updates)
        opt.step(g)
        drift.compare(p, np.asarray(theirs.fast))
    assert drift.worst <= PEER


# -- micro-batches and samples ----------------------------------------------------------------------------------------


@by_dtype
@by_backend
@by_rule
def test_accumulate(case, backend, dtype):
    """A step after n micro-batches moves by their mean; the next step starts afresh."""
    params = random_arrays(1, SIZES, dtype)
    reference = Reference(case, params)
    opt = case.make(params, backend=backend)
    for n in (3, 1, 4):
        batches = gradients(5, n, SIZES, dtype)
        total = [np.zeros(size, dtype) for size in SIZES]
        for batch in batches:
            opt.accumulate(batch)
            total = [a + b for a, b in zip(total, batch, strict=True)]
        opt.step(loss_scale=2.0)
        reference.step(total, loss_scale=2.0 * n)
        assert_same_bits(params, reference.params, f"{n} micro-batches")
    opt.step(batches[0])
    reference.step(batches[0])
    assert_same_bits(params, reference.params, "a plain step afterwards")
    assert opt.step_count == 4


@by_backend
def test_accumulate_is_the_mean(backend):
    batches = random_arrays(1, [500] * 8, np.float64)
    p = np.zeros(500)
    opt = fu.SGD([p], lr=1.0, backend=backend)
    for batch in batches:
        opt.accumulate([batch])
    opt.step()
    np.testing.assert_allclose(p, -np.mean(batches, axis=0), rtol=1e-12, atol=1e-12)


@by_backend
def test_accumulate_with_options(backend):
    """Norms are those of the mean; gradients are zeroed when they are taken in; a skipped step drops what it had."""
    g = np.full(16, 2.0)
    opt = fu.SGD([np.zeros(16)], lr=1.0, clip_norm=1.0, nonfinite="skip", zero_grads=True, backend=backend)
    opt.accumulate([g])
    assert not g.any()
    opt.accumulate([np.zeros(16)])
    report = opt.step()
    assert report.grad_norm == 4.0
    opt.accumulate([np.full(16, np.nan)])
    assert opt.step().skipped
    opt.accumulate([np.full(16, 0.25)])
    assert opt.step().grad_norm == 1.0


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 3.0, "zero_grads": True}, {"clip_unit_norm": 0.02}], ids=str)
@by_dtype
@by_backend
@by_rule
def test_samples(case, backend, dtype, options, reduce):
    """Per-sample gradients along one more axis; samples that lie apart, or inside out."""
    shapes = [(6, 5), (1100,), ()]
    rng = np.random.default_rng(0)
    params = [np.array(rng.standard_normal(s), dtype) for s in shapes]
    reference = Reference(case, params, **options)
    opt = case.make(params, backend=backend, **options)
    for layout in (np.ascontiguousarray, lambda g: np.repeat(g, 2, axis=0)[::2], np.asfortranarray):
        grads = [layout(rng.standard_normal((7, *s)).astype(dtype)) for s in shapes]
        reference.step(grads, reduce=reduce)
        opt.step(grads, reduce=reduce)
        assert_same_bits(params, [p.reshape(s) for p, s in zip(reference.params, shapes, strict=True)], layout.__name__)
        assert not options.get("zero_grads") or not any(g.any() for g in grads)


WEIGHTS = {"tokens": [3.0, 0.0, 2.5], "alike": [2.0, 2.0, 2.0], "ones": [1, np.float32(1), np.int64(1)]}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@by_dtype
@by_backend
@by_rule
def test_weighted_micro_batches(case, backend, dtype, weights):
    """Σ wg / Σ w: of any tensor, strided gradients and means of samples included."""
    params = random_arrays(1, SIZES, dtype)
    reference = Reference(case, params, clip_norm=3.0)
    opt = case.make(params, backend=backend, clip_norm=3.0)
    for _ in range(2):
        batches, total = gradients(5, len(weights), SIZES, dtype), [np.zeros(size, dtype) for size in SIZES]
        for batch, weight in zip(batches, weights, strict=True):
            opt.accumulate([np.repeat(g, 2)[::2] if k % 2 else g for k, g in enumerate(batch)], weight=weight)
            total = [a + dtype(weight) * g for a, g in zip(total, batch, strict=True)]
        opt.step(loss_scale=2.0)
        reference.step(total, loss_scale=2.0 * float(sum(weights)))
        assert_same_bits(params, reference.params, "params")
    opt.step(batches[0])
    reference.step(batches[0])
    assert_same_bits(params, reference.params, "a plain step afterwards")


@by_backend
def test_weighted_means_of_samples(backend):
    """Micro-batches that weigh as many samples as they have give the mean over all samples."""
    samples = random_arrays(1, [40] * 9, np.float64)
    p = np.zeros(40)
    opt = fu.SGD([p], lr=1.0, backend=backend)
    for part in (samples[:2], samples[2:5], samples[5:]):
        opt.accumulate([np.stack(part)], reduce="mean", weight=len(part))
    opt.step()
    np.testing.assert_allclose(p, -np.mean(samples, axis=0), rtol=1e-12, atol=1e-12)


BAD_WEIGHTS = {
    "negative": (-1.0, ValueError, "expected a finite number ≥ 0, received -1.0"),
    "nan": (np.nan, ValueError, "expected a finite number ≥ 0"),
    "bool": (True, TypeError, "expected a finite number ≥ 0"),
    "large": (1e39, ValueError, r"expected 0 or a number that float32 can hold, received 1e\+39"),
    "small": (1e-39, ValueError, "expected 0 or a number that float32 can hold, received 1e-39"),
}


@pytest.mark.parametrize(("weight", "error", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
@by_backend
def test_bad_weights(backend, weight, error, message):
    opt = fu.Adam([np.ones(3, np.float32)], backend=backend)
    opt.accumulate([np.ones(3, np.float32)], weight=2.0)
    before = fingerprint(opt)
    with pytest.raises(error, match=rf"\[adam\] weight: {message}"):
        opt.accumulate([np.ones(3, np.float32)], weight=weight)
    assert fingerprint(opt) == before


@by_backend
def test_micro_batches_of_no_weight(backend):
    p = [np.ones(3, np.float32)]
    opt = fu.Adam(p, backend=backend)
    opt.accumulate([np.ones(3, np.float32)], weight=0)
    before = fingerprint(opt)
    with pytest.raises(ValueError, match=r"\[adam\] weight: expected micro-batches that weigh more than 0 together"):
        opt.step()
    assert fingerprint(opt) == before
    opt.accumulate([np.ones(3, np.float32)])
    assert opt.step().step == 1


@by_backend
def test_weighted_micro_batches_are_not_saved_in_silence(backend):
    opt = fu.Adam([np.ones(3)], backend=backend)
    opt.accumulate([np.ones(3)])
    other = fu.Adam([np.ones(3)], backend=backend)
    other.load_state_dict(opt.state_dict())
    opt.accumulate([np.full(3, 5.0)], weight=3)
    with pytest.raises(ValueError, match=r"\[adam\] state_dict: expected no weighted micro-batches \(step or discard"):
        opt.state_dict()
    other.accumulate([np.full(3, 5.0)], weight=3)  # one that was loaded goes on
    opt.step()
    other.step()
    assert_same_bits(other.state_dict()["arrays"]["state.m.0"], opt.state_dict()["arrays"]["state.m.0"], "m")


@by_backend
def test_discarded_micro_batches_leave_no_trace(backend):
    params, expected = random_arrays(1, SIZES, np.float32), random_arrays(1, SIZES, np.float32)
    opt, plain = fu.Adam(params, backend=backend), fu.Adam(expected, backend=backend)
    batches = gradients(3, 3, SIZES, np.float32)
    for way in ("step", "accumulate"):
        opt.accumulate([g * np.float32(np.nan) for g in batches[0]], weight=4)
        opt.accumulate(batches[1])
        opt.discard()
        for one in (opt, plain):
            if way == "step":
                one.step(batches[2])
            else:
                one.accumulate(batches[2])
                one.step()
        assert_same_bits(params, expected, way)
    opt.discard()
    assert opt.freeze("0") == ["0"]


BAD_SAMPLES = {
    "no-axis": (np.ones(3, np.float32), "mean"),
    "no-samples": (np.ones((0, 3), np.float32), "mean"),
    "other-shape": (np.ones((2, 4), np.float32), "sum"),
    "other-word": (np.ones((2, 3), np.float32), "median"),
}


@pytest.mark.parametrize("name", BAD_SAMPLES)
@by_backend
def test_bad_samples(backend, name):
    g, reduce = BAD_SAMPLES[name]
    opt = fu.Adam([np.ones(3, np.float32)], backend=backend)
    before = fingerprint(opt, g)
    with pytest.raises(ValueError, match=r"\[adam\] (grads\[0\]: expected shape|reduce: expected 'mean')"):
        opt.step([g], reduce=reduce)
    assert fingerprint(opt, g) == before


@by_backend
def test_bound_after_samples(backend):
    """The factor of a mean over samples belongs to its step alone."""
    p, g = np.zeros(4), np.ones(4)
    opt = fu.SGD([p], lr=1.0, backend=backend)
    opt.bind([g])
    opt.step([np.ones((4, 4))], reduce="mean")
    opt.step()
    assert p.tolist() == [-2.0] * 4


@by_backend
@pytest.mark.parametrize("layout", ["contiguous", "strided", "samples"])
@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_zero_grads_holds_for_a_step_that_does_not_move(policy, layout, backend):
    """NaN that stayed in an accumulating buffer would make every later step be skipped too."""
    g = np.full({"contiguous": 200, "strided": 400, "samples": (2, 200)}[layout], np.nan, np.float32)
    g = g[::2] if layout == "strided" else g
    opt = fu.SGD([np.ones(200, np.float32)], lr=0.1, nonfinite=policy, zero_grads=True, backend=backend)
    reduce = "mean" if layout == "samples" else None
    if policy == "raise":
        with pytest.raises(FloatingPointError):
            opt.step([g], reduce=reduce)
    else:
        assert opt.step([g], reduce=reduce).skipped
    assert not g.any()
    g += 1
    assert opt.step([g], reduce=reduce).step == 1
