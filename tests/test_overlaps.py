"""Row 7 of the fault table: parameters, states and gradients that overlap are refused, and nothing has changed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cases import by_backend, cases_of
from unchanged import raises_unchanged

import fastupdate as fu

ADAM = cases_of("adam")[0]


def buffer() -> np.ndarray:
    return np.zeros(20, np.float32)


OVERLAPS: dict[str, tuple[Callable[[np.ndarray], list[np.ndarray]], str]] = {
    "7-same-twice": (lambda b: [b[:5], b[5:9], b[:5]], r"params\[2\]: expected memory apart from params\[0\]"),
    "7-overlapping": (lambda b: [b[:5], b[4:9]], r"params\[1\]: expected memory apart from params\[0\]"),
    "7-inside": (lambda b: [b[:9], b[3:4]], r"params\[1\]: expected memory apart from params\[0\]"),
    "7-stride-0": (lambda b: [np.lib.stride_tricks.as_strided(b, (4,), (0,))], "addresses of their own"),
    "7-windows": (lambda b: [np.lib.stride_tricks.sliding_window_view(b, 3, writeable=True)], "addresses of their own"),
    "7-reversed": (lambda b: [b[:6], b[8:3:-1]], r"memory apart from"),
}


@pytest.mark.parametrize("name", OVERLAPS)
def test_overlapping_parameters(name):
    views, words = OVERLAPS[name]
    with pytest.raises(ValueError, match=words):
        fu.Adam(views(buffer()))


@by_backend
def test_7_interleaved_parameters_are_apart(backend):
    b = buffer()
    fu.SGD([b[::2], b[1::2]], lr=1.0, backend=backend).step([np.ones(10, np.float32), np.full(10, 2, np.float32)])
    assert b.tolist() == [-1.0, -2.0] * 10


GRADIENT_OVERLAPS: dict[str, tuple[Callable[[fu.Optimizer], np.ndarray], str]] = {
    "7-the-parameter": (lambda opt: opt.stepper.items[0].array, r"params\[0\]"),
    "7-another-parameter": (lambda opt: opt.stepper.items[1].array, r"params\[1\]"),
    "7-a-state": (lambda opt: opt.state["m"][1], r"state\['m'\]\[1\]"),
    "7-the-average": (lambda opt: opt.ema[0], r"ema\[0\]"),
}


@pytest.mark.parametrize("name", GRADIENT_OVERLAPS)
@by_backend
def test_overlapping_gradient(backend, name):
    pick, words = GRADIENT_OVERLAPS[name]
    opt = ADAM.make([np.ones(6, np.float32), np.ones(6, np.float32)], ema_decay=0.9, backend=backend)
    words = rf"grads\[0\]: expected memory apart from {words}, received overlapping arrays"
    raises_unchanged(opt, [pick(opt), np.ones(6, np.float32)], ValueError, words)


@by_backend
@pytest.mark.parametrize("shift", [-5, -1, 1, 5])
def test_7_a_gradient_that_overlaps_one_end(backend, shift):
    memory = np.ones(18, np.float32)
    opt = fu.SGD([memory[6:12]], backend=backend)
    opt.step([memory[:6]])  # next to it: allowed
    opt.step([memory[12:]])
    words = r"grads\[0\]: expected memory apart from params\[0\]"
    raises_unchanged(opt, [memory[6 + shift :][:6]], ValueError, words)


@by_backend
def test_7_gradients_to_be_zeroed_overlap(backend):
    g = np.ones(9, np.float32)
    opt = fu.SGD([np.ones(5, np.float32), np.ones(5, np.float32)], zero_grads=True, backend=backend)
    raises_unchanged(opt, [g[:5], g[4:]], ValueError, r"grads\[1\]: expected memory apart from grads\[0\]")
    fu.SGD([np.ones(5, np.float32), np.ones(5, np.float32)], backend=backend).step([g[:5], g[4:]])  # only read: allowed


@by_backend
def test_7_gradients_to_be_zeroed_overlap_later(backend):
    g = np.ones(9, np.float32)
    opt = fu.SGD([np.ones(5, np.float32), np.ones(4, np.float32)], zero_grads=True, backend=backend)
    apart, overlapping = [g[:5], g[5:]], [g[:5], g[4:8]]
    for _ in range(2):
        opt.step(apart)
        for _ in range(2):  # what was refused once is refused again
            g[:] = 1
            raises_unchanged(opt, overlapping, ValueError, r"grads\[1\]: expected memory apart from grads\[0\]")
    opt.accumulate(apart)
    opt.step()
    g[:] = 1
    raises_unchanged(opt, overlapping, ValueError, r"grads\[1\]: expected memory apart from grads\[0\]")
    opt.step(apart)


@by_backend
def test_7_gradients_to_be_zeroed_lie_in_a_frozen_tensor(backend):
    params = [np.ones(5, np.float32), np.ones(5, np.float32)]
    opt = fu.SGD(params, zero_grads=True, backend=backend)
    opt.freeze("1")
    raises_unchanged(opt, [params[1], None], ValueError, r"memory apart from (params\[1\]|grads\[0\])")
