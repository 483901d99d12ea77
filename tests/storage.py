"""Arrays of narrow types for tests, what they decode to by other means than ours, and libraries that have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from peers import peer

from fastupdate.arrays import memory
from fastupdate.step.slots import narrowed

NARROW = list(memory.NARROW)


def narrow(array: np.ndarray, kind: str) -> np.ndarray:
    """The array rounded to a narrow type, lying in memory as it did."""
    rounded = np.empty_like(array, memory.STORAGE[kind].bits)
    rounded[...] = narrowed(array, kind)
    return rounded.view(memory.STORAGE[kind].dtype)


def every_code(kind: str) -> np.ndarray:
    """One element for each pattern of bits."""
    return np.arange(1 << 16, dtype=np.uint16).view(memory.STORAGE[kind].dtype)


def decoded(array: np.ndarray) -> np.ndarray:
    """The same numbers in float32, lying in memory as they did."""
    if array.dtype == np.float16:
        return array.astype(np.float32, order="K")
    wide = np.empty_like(array, np.uint32)
    wide[...] = array.view(np.uint16).astype(np.uint32) << 16
    return wide.view(np.float32)


def library_array(library: str, values: np.ndarray, kind: str) -> Any:
    """The same numbers as a narrow array of a library's own."""
    if library == "torch":
        torch = peer("torch")
        return torch.from_numpy(values.copy()).to(getattr(torch, kind))
    if library == "jax":
        return peer("jax").numpy.asarray(values, kind)
    return values.astype(np.float16 if kind == "float16" else peer("ml_dtypes").bfloat16)


LIBRARIES = [
    pytest.param("numpy"),
    *(pytest.param(name, marks=pytest.mark.peer) for name in ("torch", "jax")),
]
