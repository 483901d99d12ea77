"""Micro-batches: added up, weighted, discarded; samples along one more axis."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from cases import (
    assert_same_bits,
    by_backend,
    by_dtype,
    by_rule,
    exactly,
    fingerprint,
    gradients,
    random_arrays,
)
from reference import Reference

import fastupdate as fu
from fastupdate.step.gradients import MicroBatches

SIZES = [1, 7, 33, 1024, 2500]


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
def test_a_weight_is_read_once(backend, monkeypatch):
    read, check = [], MicroBatches.check
    monkeypatch.setattr(MicroBatches, "check", lambda *args: read.append(args) or check(*args))
    opt = fu.Adam([np.ones(3, np.float32)], backend=backend)
    opt.accumulate([np.ones(3, np.float32)], weight=np.float16(0.5))
    assert len(read) == 1
    assert opt.stepper.micro_batches.weight == 0.5


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
@pytest.mark.parametrize("copied", [False, True], ids=["state", "copy"])
def test_weighted_micro_batches_are_saved(backend, copied):
    opt = fu.Adam([np.ones(3)], backend=backend)
    opt.accumulate([np.ones(3)], weight=0.5)
    opt.accumulate([np.full(3, 5.0)], weight=3)
    other = fu.Adam([np.ones(3)], backend=backend)
    other.accumulate([np.full(3, 7.0)])  # is forgotten
    other.load_state_dict(opt.state_dict())
    both = [opt, copy.deepcopy(opt) if copied else other]
    for one in both:
        one.accumulate([np.full(3, -5.0)], weight=1.25)
        one.step()
        one.step([np.ones(3)])
    assert opt.state["m"][0][0] != 0
    assert exactly(both[1].state_dict()) == exactly(opt.state_dict())


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
