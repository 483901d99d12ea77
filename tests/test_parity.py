"""The same bits on any thread count, instruction set and backend, byte by byte (only NaN payloads may differ)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from cases import (
    BEST,
    CASES,
    ENGINES,
    EVERY_CASE,
    FIRST_CASES,
    MIXED_OPTIONS,
    PARALLEL,
    PRODUCT,
    SIZES,
    SUM_OPTIONS,
    Case,
    Engine,
    arrays_of,
    assert_same_bits,
    by_dtype,
    by_engine,
    by_rule,
    every_run,
    random_arrays,
)
from reference import Reference

import fastupdate as fu

THREADS = [1, 2, 3, 7]
THIRD = THREADS if PRODUCT else [3]  # which threads do what, neither a rule nor an option decides
STEPS = 3
MATRICES = {"square": (64, 64), "transposed": (37, 53), "strided": (5000,), "cube": (9, 11, 13)}
FLAT_SIZES = [*SIZES, PARALLEL]
ALL_SIZES = [*FLAT_SIZES, *(int(np.prod(shape)) for shape in MATRICES.values())]

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norms": {"clip_norm": 30.0, "nonfinite": "skip", "monitor": True},
    **MIXED_OPTIONS,
    **SUM_OPTIONS,
    "masked": {"optimism": 0.3, "cautious": True, "clip_value": (-5.0, 3.0), "decay": "cautious", "monitor": True},
}  # fmt: skip
# Every case by itself, and one of each rule under the options.
COMBINED = [(case, "plain") for case in EVERY_CASE] + [(c, o) for c in FIRST_CASES for o in list(OPTIONS)[1:]]
NEWEST = [engine.values[0] for engine in BEST if engine.values[0].isa]
by_combination = pytest.mark.parametrize(("case", "options"), COMBINED, ids=[f"{c}-{o}" for c, o in COMBINED])


def in_memory(name: str, array: np.ndarray) -> np.ndarray:
    """A copy of the array that lies in memory as its name says."""
    if name == "transposed":
        return np.array(array, order="F")
    if name == "strided":
        return np.repeat(array, 3)[::3]
    return array.copy()


def arrays(seed: int, dtype: Any) -> list[np.ndarray]:
    """One array of each size, then the matrices."""
    flat = random_arrays(seed, ALL_SIZES, dtype)
    matrices = zip(MATRICES, flat[len(FLAT_SIZES) :], strict=True)
    return [*flat[: len(FLAT_SIZES)], *(in_memory(name, a.reshape(MATRICES[name])) for name, a in matrices)]


@cache
def problem(dtype: Any) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    return arrays(7, dtype), [arrays(8 + k, dtype) for k in range(STEPS)]


def fresh(arrays: list[np.ndarray]) -> list[np.ndarray]:
    names = [""] * len(FLAT_SIZES) + list(MATRICES)
    return [in_memory(name, a) for name, a in zip(names, arrays, strict=True)]


def outcome(case: Case, dtype: Any, options: dict[str, Any], engine: Engine, threads: int) -> dict[str, Any]:
    """Everything that three steps leave behind: arrays, gradients, reports."""
    fu.set_num_threads(threads)
    params, grads = problem(dtype)
    opt = case.make(fresh(params), backend=engine.select(), **options)
    reports, left = [], []
    for step in map(fresh, grads):
        report = opt.step(step)
        numbers = np.array([report.grad_norm or 0.0, report.clip_factor])
        table = report.tensors
        reports.append([numbers] if table is None else [numbers, *(table[f] for f in table.dtype.names if f != "name")])
        left.append(step)
    return {**arrays_of(opt), "grads": left, "reports": reports}


@cache
def baseline(case: Case, dtype: Any, options: str) -> dict[str, Any]:
    """One thread of the first engine: the plainest instruction set."""
    return outcome(case, dtype, OPTIONS[options], ENGINES[0].values[0], 1)


@every_run((*row, engine) for row in COMBINED for engine in ENGINES)
def test_same_bits(case, dtype, options, engine):
    expected = baseline(case, dtype, options)
    for threads in THREADS if case in CASES and (options == "plain" or engine in NEWEST) else THIRD:
        actual = outcome(case, dtype, OPTIONS[options], engine, threads)
        for kind in expected:
            assert_same_bits(actual[kind], expected[kind], f"{kind}, {threads} threads")


@by_dtype
@by_combination
def test_bits_of_the_reference(case, dtype, options):
    """The baseline is what plain NumPy computes, norms included."""
    expected = baseline(case, dtype, options)
    params, grads = problem(dtype)
    reference = Reference(case, params, **OPTIONS[options])
    for g, report in zip(grads, expected["reports"], strict=True):
        reference.step(g)
        assert report[0][0] == (reference.grad_norm or 0.0)
        assert report[0][1] == reference.clip_factor
    for kind, values in reference.arrays().items():
        assert_same_bits(expected[kind], values, kind)


@by_engine
@by_rule
def test_same_bits_with_special_values(case, engine):
    """NaN, infinities, denormals and signed zeros take the same way through every stage."""
    values = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 1e20]
    p, g = (a.ravel().copy() for a in np.meshgrid(np.float32(values), np.float32(values)))
    options = {**OPTIONS["stages"], "clip_tensor_norm": None, "shadow": "float16"}
    reference = Reference(case, [p], **options)
    opt = case.make([p], backend=engine.select(), **options)
    for _ in range(STEPS):
        reference.step([g])
        opt.step([g.copy()])
    for kind, values in reference.arrays().items():
        assert_same_bits(arrays_of(opt)[kind], values, kind)


def test_machine_code_of_other_sources_is_not_used_again(monkeypatch):
    """A function is compiled anew when any file of what it calls is another, and not otherwise."""
    compiling = pytest.importorskip("fastupdate.engines.python.compiling", reason="numba is not installed")
    from numba import float64
    from numba.core.registry import cpu_target

    from fastupdate.engines.python import sums

    arguments = (float64[::1],), cpu_target.target_context.codegen()
    key = sums.fold_parts._cache._index_key(*arguments)
    assert sums.fold_parts._cache._index_key(*arguments) == key
    monkeypatch.setattr(compiling, "SOURCES", "others")
    assert sums.fold_parts._cache._index_key(*arguments) != key
