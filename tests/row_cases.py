"""Gradients of few rows, as the tests draw them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, random_arrays

import fastupdate as fu

by_mode = pytest.mark.parametrize("mode", ["lazy", "dense"])
COUNT = 9  # rows of a parameter
DRAWS: dict[str, list[list[int]]] = {  # rows that gradients touch, step by step
    "distinct": [[7, 0, 4], [8], [1, 7, 0]],
    "repeated": [[3, 3, 8, 3, 0, 8], [5, 5], [0, 3, 0, 3, 0]],
    "rising": [[0, 4, 7], [3, 3, 5], [0, 0, 8, 8, 8, 8, 8, 8]],
    "none, all": [[], [8, 7, 6, 5, 4, 3, 2, 1, 0], [2]],
}
SOME = [0, 3]


def values(seed: int, count: int, width: int, dtype: Any) -> np.ndarray:
    return random_arrays(seed, [count * width], dtype, spread=1.0)[0].reshape(count, width)


def rows(indices: Any, values: Any) -> fu.Rows:
    return fu.Rows(np.array(indices), values)


def pair(gradient: fu.Rows) -> tuple[Any, Any]:
    return gradient.indices, gradient.values


def densified(gradient: fu.Rows, like: np.ndarray) -> np.ndarray:
    """Added up in the order in which rows are named, starting from the first."""
    grad, seen = np.zeros_like(like), set[int]()
    for index, value in zip(gradient.indices, gradient.values, strict=True):
        grad[index] = grad[index] + value.astype(like.dtype) if int(index) in seen else value
        seen.add(int(index))
    return grad


def steps(draws: str, width: int, dtype: Any, index_type: Any = np.int64) -> list[fu.Rows]:
    return [
        fu.Rows(np.array(drawn, index_type), values(20 + k, len(drawn), width, dtype))
        for k, drawn in enumerate(DRAWS[draws])
    ]


def but_on_numba(names: Iterable[str], without: set[str]) -> list[Any]:
    """Names and backends: Numba, which compiles whatever takes sums for seconds, goes without some."""
    return [
        pytest.param(name, *backend.values, id=f"{name}-{backend.id}", marks=backend.marks)
        for name in names
        for backend in BACKENDS
        if not (name in without and "numba" in backend.values)
    ]
