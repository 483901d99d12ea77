"""Threads: how many there are, and what they take over from their caller, never shows in the bits."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from cases import FIRST_CASES, PARALLEL, assert_same_bits, by_rule

import fastupdate as fu
from fastupdate.engines import choose

pytestmark = pytest.mark.skipif(
    choose.native_problem() is not None, reason=f"threads of the native engine: {choose.native_problem()}"
)

STEPS = 12  # enough for both numbers of threads to be tried, and one to be chosen
LIBM = ctypes.CDLL(None)
MODES = {"upward": 0x800, "downward": 0x400, "toward-zero": 0xC00}  # <fenv.h> on x86-64


@contextmanager
def rounding(mode: int) -> Iterator[None]:
    """The calling thread rounds in another way."""
    if LIBM.fesetround(mode):
        pytest.skip("this processor numbers its rounding modes in another way")
    try:
        yield
    finally:
        LIBM.fesetround(0)


def left(case, threads: int | None, steps: int = STEPS, **options: Any) -> list[np.ndarray]:
    """What some steps leave behind, with values near the smallest normal numbers among them."""
    fu.set_num_threads(threads)
    rng = np.random.default_rng(5)
    params = [(rng.standard_normal(PARALLEL) * scale).astype(np.float32) for scale in (1.0, 1e-38)]
    opt = case.make(params, clip_norm=2.0, monitor=True, **options)
    for _ in range(steps):
        opt.step([rng.standard_normal(PARALLEL).astype(np.float32) * np.float32(1e-38) for _ in params])
    return [*params, *(a for state in opt.state.values() for a in state)]


@pytest.mark.skipif(choose.numba_problem() is not None, reason=f"no backend numba: {choose.numba_problem()}")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_of_numba_round_as_their_caller_does(threads, mode):
    """Even one: what must not be cut short is done by another thread than the main one."""
    options = {"steps": 2, "backend": "numba"}
    left(FIRST_CASES[-1], 3, **options)  # they are there, and round to nearest
    with rounding(MODES[mode]):
        expected = left(FIRST_CASES[-1], 1, steps=2, backend="native")
        assert_same_bits(left(FIRST_CASES[-1], threads, **options), expected, mode)


@by_rule
def test_measured_threads_leave_the_same_bits(case):
    assert_same_bits(left(case, None), left(case, 1), "measured against one thread")


@pytest.mark.parametrize("mode", MODES)
@by_rule
def test_workers_round_as_their_caller_does(case, mode):
    left(case, 3, steps=1)  # the workers are there, and round to nearest
    with rounding(MODES[mode]):
        expected, actual = left(case, 1, steps=2), left(case, 3, steps=2)
    assert_same_bits(actual, expected, mode)
    assert any(a.tobytes() != b.tobytes() for a, b in zip(expected, left(case, 1, steps=2), strict=True)), "no effect"


def test_workers_flush_to_zero_as_their_caller_does():
    torch = pytest.importorskip("torch", reason="torch is not installed: it sets the mode")
    case = fu.SGD

    def moved(threads: int) -> bytes:
        fu.set_num_threads(threads)
        p = np.full(PARALLEL, 1e-38, np.float32)
        opt = case([p], lr=1.0, momentum=0.5)
        for _ in range(2):
            opt.step([np.full(PARALLEL, 1e-39, np.float32)])
        return p.tobytes()

    whole = moved(3)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush to zero")
    try:
        assert moved(1) == moved(3) != whole
    finally:
        torch.set_flush_denormal(False)
    assert moved(3) == whole, "the workers kept the mode of an earlier caller"


def test_a_second_thread_of_python_steps_with_workers_of_its_own():
    fu.set_num_threads(2)
    found: list[list[np.ndarray]] = []
    case = fu.Adam
    for _ in range(2):
        p = [np.ones(PARALLEL, np.float32)]
        opt = case(p)
        thread = threading.Thread(target=lambda opt=opt: opt.step([np.ones(PARALLEL, np.float32)]))
        thread.start()
        thread.join()
        found.append(p)
    assert_same_bits(found[0], found[1], "two threads, one after the other")


@pytest.mark.parametrize("options", [{}, {"clip_norm": 2.0, "monitor": True}], ids=["plain", "sums"])
def test_threads_take_plenty_of_work_in_pieces(options):
    """So that one that is kept from its core is helped; in any order, by whichever comes first."""
    found = []
    for threads in (1, 2, 3, 5):
        fu.set_num_threads(threads)
        p = [np.linspace(-2, 3, n, dtype=np.float32) for n in (3_000_001, 70_001)]
        p += [np.asfortranarray(np.linspace(-2, 3, 900 * 700, dtype=np.float32).reshape(900, 700))]
        opt = fu.AdamW(p, lr=0.1, weight_decay=0.1, **options)
        reports = [opt.step([a * np.float32(0.5 + k) for a in p]) for k in range(2)]
        found.append((p, [report.grad_norm for report in reports]))
    for p, norms in found[1:]:
        assert_same_bits(p, found[0][0], str(options))
        assert norms == found[0][1]


def test_fixed_and_measured():
    fu.set_num_threads(3)
    assert fu.get_num_threads() == 3
    fu.set_num_threads(None)
    assert fu.get_num_threads() >= 1
    with pytest.raises((TypeError, ValueError), match=r"\[fastupdate\] threads: expected"):
        fu.set_num_threads(0)
