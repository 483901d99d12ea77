"""Arrays of narrow types for tests, and what they decode to by other means than ours."""

from __future__ import annotations

import numpy as np

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
