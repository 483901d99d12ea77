"""How the rows that a gradient names are sorted and grouped, and fetched meanwhile."""

from __future__ import annotations

import numpy as np
import pytest
from cases import PARALLEL, assert_same_bits, by_backend

import fastupdate as fu
from fastupdate.engines.choose import native_problem
from fastupdate.step.rows import _grouped_in_python, grouped


@pytest.mark.skipif(native_problem() is not None, reason=f"no native engine: {native_problem()}")
@pytest.mark.parametrize("bound", [1, 128, 129, 300, 2**14 + 1, 70_000, 2**22 + 1, 2**31 - 2, 2**31 - 1, 2**31, 2**40])
@pytest.mark.parametrize("count", [0, 1, 2047, 2048, 5000])
def test_names_of_rows_are_grouped_as_numpy_groups_them(count: int, bound: int) -> None:
    """In all ways of sorting: by short and long digits, of short and long numbers, and none."""
    rng = np.random.default_rng(count)
    few = rng.integers(0, bound, 1 + count // 3)
    for numbers in (rng.choice(few, count), np.sort(rng.choice(few, count)), np.full(count, bound - 1)):
        for found, expected in zip(grouped(numbers, bound), _grouped_in_python(numbers, bound), strict=True):
            assert_same_bits(found, expected.astype(np.int64), f"{count} of {bound}")


@by_backend
@pytest.mark.parametrize("mode", ["lazy", "dense"])
@pytest.mark.parametrize("wrong", [-1, 2**62, 2 * PARALLEL // 70])
def test_a_row_that_is_not_there_among_many(wrong: int, mode: str, backend: str) -> None:
    """While names are sorted, other threads fetch what they name, whatever that is."""
    fu.set_num_threads(3)
    count, width = 2 * PARALLEL // 70, 70
    names = np.arange(count)[::-1].copy()
    names[5] = wrong
    p, grads = (np.full((count, width), x, np.float32) for x in (0.5, -0.25))
    opt = fu.Adam([p], lr=0.1, rows=mode, backend=backend)
    with pytest.raises(IndexError, match=f"{wrong} at position 5"):
        opt.step([fu.Rows(names, grads)])
    assert_same_bits(p, np.full_like(p, 0.5), "nothing has changed")


@by_backend
@pytest.mark.parametrize("name", ["adagrad", "sgd"])
def test_where_lazy_steps_leave_the_same_weights(name: str, backend: str) -> None:
    """Rules that a gradient of zeros moves nothing by, without decay (docs/sparse.md)."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((9, 33)).astype(np.float32)
    grads = [
        fu.Rows(np.array(drawn), rng.standard_normal((len(drawn), 33)).astype(np.float32))
        for drawn in ([7, 0, 7], [4, 0, 8], [7])
    ]
    found = {}
    for mode in ("lazy", "dense"):
        found[mode] = start.copy()
        opt = fu.rules.get(name)([found[mode]], lr=0.1, rows=mode, backend=backend)
        for gradient in grads:
            opt.step([gradient])
    assert_same_bits(found["lazy"], found["dense"], name)
    assert (found["lazy"][[0, 4, 7, 8]] != start[[0, 4, 7, 8]]).all()
