"""How the rows that a gradient names are sorted and grouped."""

from __future__ import annotations

import numpy as np
import pytest
from cases import assert_same_bits

from fastupdate.engines.choose import native_problem
from fastupdate.step.rows import _grouped_in_python, grouped


@pytest.mark.skipif(native_problem() is not None, reason=f"no native engine: {native_problem()}")
@pytest.mark.parametrize("bound", [1, 300, 70_000, 2**31 - 2, 2**31 - 1, 2**31, 2**40])
@pytest.mark.parametrize("count", [0, 1, 2047, 2048, 5000])
def test_names_of_rows_are_grouped_as_numpy_groups_them(count: int, bound: int) -> None:
    """In all ways of sorting: by short and long digits, of short and long numbers, and none."""
    rng = np.random.default_rng(count)
    few = rng.integers(0, bound, 1 + count // 3)
    for numbers in (rng.choice(few, count), np.sort(rng.choice(few, count)), np.full(count, bound - 1)):
        for found, expected in zip(grouped(numbers, bound), _grouped_in_python(numbers, bound), strict=True):
            assert_same_bits(found, expected.astype(np.int64), f"{count} of {bound}")
