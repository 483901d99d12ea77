"""The host side of the CUDA engine, on the stand-in: what is queued when, and reports. No GPU is needed."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from cases import assert_same_bits
from cuda_pairs import OTHER_STREAM, POISONED, assert_alike, grads, on_device, pair, params, poisoned
from device_arrays import STREAM

import fastupdate as fu
from fastupdate import schedules

pytestmark = pytest.mark.usefixtures("shim")


@pytest.mark.parametrize(
    "option",
    [
        {"cautious": "mean"},
        {"cautious": "count"},
        {"centralize": True},
        {"optimism_norm": 1.0},
        {"trust_ratio": True},
        {"keep_norm": True},
    ],
    ids=str,
)
def test_options_that_need_sums_of_their_own_are_refused(option: dict[str, Any]) -> None:
    [name] = option
    expected = "arrays in host memory, or backend='numba-cuda', for an option that needs sums"
    with pytest.raises(ValueError, match=rf"\[adamw\] {name}: expected {expected}"):
        fu.AdamW(on_device(params()), **option)


def test_showing_an_optimizer_waits_for_nothing(shim):
    """It names the device, and reads nothing from it."""
    there = fu.AdamW(on_device(params()), nonfinite="skip", ema_decay=0.9)
    gradients = on_device(grads())
    shim.synchronize(STREAM)
    there.step(gradients)
    waiting = shim.pending(STREAM)
    assert waiting
    for shown in (repr(there), there._repr_html_()):
        assert "3 tensors of float32, 2,529 elements" in shown
        assert "30.35 kB of state (m, v, ema)" in shown
        assert "backend cuda, CUDA device 0; 1 step taken" in shown
    assert shim.pending(STREAM) == waiting


# -- what is queued, and when -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"clip_norm": 1.0, "monitor": True}, {"clip_unit_norm": 0.1}], ids=["plain", "norms", "units"]
)
def test_steps_do_not_wait(options, shim):
    """Several steps are queued before any of them runs, and none of them reads what a later one has uploaded."""
    gc.collect()  # what is freed later would wait for the device
    host, there = pair(lr=schedules.cosine(0.1, 9), **options)
    device_grads = [on_device(grads(k)) for k in range(4)]
    shim.synchronize(STREAM)
    waiting = 0
    for k in range(4):
        host.step(grads(k))
        report = there.step(device_grads[k])
        assert shim.pending(STREAM) > waiting
        waiting = shim.pending(STREAM)
        assert report.lr == host.report.lr
    assert_alike(host, there)


def test_reports_keep_their_own_figures():
    """A report fetched late tells of its own step."""
    host, there = pair(clip_norm=1.0, monitor=True)
    pairs = [(host.step(grads(k)), there.step(on_device(grads(k)))) for k in range(5)]
    for expected, actual in reversed(pairs):
        assert repr(actual) == repr(expected)
        for name in expected.tensors.dtype.names:
            np.testing.assert_array_equal(actual.tensors[name], expected.tensors[name])


def test_skipped_steps_do_not_count():
    host, there = pair(nonfinite="skip", lr=schedules.cosine(0.1, 9), lookahead=(2, 0.5))
    reports = []
    for k in range(6):
        expected, actual = host.step(poisoned(k)), there.step(on_device(poisoned(k)))
        reports.append((expected, actual))
    assert [actual.skipped for _, actual in reports] == [k in POISONED for k in range(6)]
    for expected, actual in reports:
        assert (actual.step, actual.lr, actual.nonfinite) == (expected.step, expected.lr, expected.nonfinite)
    assert_alike(host, there)


@pytest.mark.parametrize("lr", [0.01, schedules.cosine(0.1, 20)], ids=["constant", "scheduled"])
def test_skipped_steps_are_not_waited_for(lr, shim):
    """Which step it is, only the device knows: seven may be under way before one is waited for."""
    gc.collect()
    options = {"nonfinite": "skip", "clip_norm": 1.0, "lookahead": (3, 0.5), "monitor": True, "decay": "independent"}
    host, there = pair(lr=lr, **options)
    gradients = [poisoned(k, [0, 2, 8]) for k in range(12)]
    device_grads = [on_device(g) for g in gradients]
    shim.synchronize(STREAM)
    pairs, waiting = [], 0
    for k in range(12):
        pairs.append((host.step(gradients[k]), there.step(device_grads[k])))
        assert (shim.pending(STREAM) > waiting) == (k != 8)
        waiting = shim.pending(STREAM)
    assert len(there.stepper.undecided.steps) == 4
    for expected, actual in reversed(pairs):
        assert repr(actual) == repr(expected)
    assert_alike(host, there)
    assert there.step_count == 9


@pytest.mark.parametrize("option", ["clip_norm", "clip_tensor_norm", "clip_unit_norm"])
def test_scheduled_clipping_of_steps_that_may_be_skipped(option):
    host, there = pair(nonfinite="skip", **{option: schedules.exponential(0.5, gamma=0.6)})
    for k in range(6):
        expected, actual = host.step(poisoned(k)), there.step(on_device(poisoned(k)))
        assert repr(actual) == repr(expected)
    assert_alike(host, there)


def test_too_many_skipped_steps_are_told_when_they_are_known():
    """The device skips on; the first step that knows of one too many raises, and every so many more."""
    host, there = pair(nonfinite="skip", max_skips=2)
    told = []
    for k in range(30):
        try:
            report = there.step(on_device(poisoned(k, [k])))
            report.skipped  # noqa: B018 (waits for the device)
        except FloatingPointError as error:
            told.append((k, str(error)))
    words = "[adamw] grads: expected finite values after 2 skipped steps in a row (max_skips), received others"
    assert told[0] == (3, words)
    assert {later - earlier for (earlier, _), (later, _) in pairwise(told)} == {2}
    for one, given in ((host, grads(9)), (there, on_device(grads(9)))):
        assert not one.step(given).skipped
    assert_alike(host, there)


def test_weighted_micro_batches():
    host, there = pair(clip_norm=1.0)
    for _ in range(2):
        for k, weight in enumerate([3.0, 0.0, 2.5]):
            host.accumulate(grads(k), weight=weight)
            there.accumulate(on_device(grads(k)), weight=weight)
        assert repr(there.step()) == repr(host.step())
    there.accumulate(on_device(poisoned(1)))
    there.discard()
    host.step(grads(5))
    there.step(on_device(grads(5)))
    assert_alike(host, there)


def test_reports_let_go_of_earlier_ones():
    _, there = pair(nonfinite="skip")
    reports = [there.step(on_device(poisoned(k))) for k in range(3)]
    first = weakref.ref(reports[0]._statistics)
    assert there.step_count == 1
    assert [report.step for report in reports] == [1, 1, 1]
    del reports[0]
    gc.collect()
    assert first() is None


@pytest.mark.parametrize("zero_grads", [False, True])
def test_raise_names_the_tensor_and_changes_nothing_but_gradients_to_be_zeroed(zero_grads):
    _, there = pair(nonfinite="raise", zero_grads=zero_grads)
    bad = on_device(poisoned(POISONED[0]))
    with pytest.raises(FloatingPointError, match=r"\[adamw\] grads\[1\]: expected finite values, received 1"):
        there.step(bad)
    assert_alike(pair()[0], there)
    left = np.zeros_like(bad[0].get()) if zero_grads else grads(POISONED[0])[0]
    assert_same_bits(bad[0].get(), left, "gradient")


def test_skip_zeroes_gradients_that_are_to_be_zeroed():
    host, there = pair(nonfinite="skip", zero_grads=True)
    bad, host_bad = on_device(poisoned(POISONED[0])), poisoned(POISONED[0])
    assert there.step(bad).skipped
    assert host.step(host_bad).skipped
    assert not any(g.get().any() for g in bad)
    assert not any(g.any() for g in host_bad)


def test_bound_gradients():
    host, there = pair()
    buffers, host_buffers = on_device(grads()), grads()
    host.bind(host_buffers), there.bind(buffers)
    for k in range(3):
        for a, b, g in zip(buffers, host_buffers, grads(k), strict=True):
            a.set(g)
            b[...] = g
        assert there.step().step == host.step().step
    assert_alike(host, there)


def test_gradients_that_move_are_followed(shim):
    """Their addresses are uploaded again, and only then."""
    host, there = pair()
    same = on_device(grads())
    counts = []
    for k, fresh in enumerate([False, False, True]):
        before = shim.pending(STREAM)
        there.step(on_device(grads(k)) if fresh else same)
        counts.append(shim.pending(STREAM) - before)
        host.step(grads(k if fresh else 0))
    assert counts[1] < counts[0]
    assert_alike(host, there)


def test_work_of_another_stream_is_waited_for(shim):
    """A gradient that names another stream is read after what that stream has been given, and written over after it."""
    host, there = pair()
    enqueue_copy = shim.enqueue_copy
    late, values = on_device(grads(), stream=OTHER_STREAM), on_device(grads(1))
    for gradient, value in zip(late, values, strict=True):
        size = gradient.dtype.itemsize * int(np.prod(gradient.shape))
        enqueue_copy(gradient.address, value.address, size, OTHER_STREAM)
    there.step(late)
    for gradient, value in zip(late, on_device(grads(2)), strict=True):
        enqueue_copy(gradient.address, value.address, gradient.dtype.itemsize * gradient.shape[0], OTHER_STREAM)
    shim.synchronize(OTHER_STREAM)
    host.step(grads(1))
    assert_alike(host, there)
