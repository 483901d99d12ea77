"""What an array is to an engine: an address, a dtype, and whether it can be walked as it lies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES: dict[np.dtype[Any], int] = {np.dtype(np.float32): 0, np.dtype(np.float64): 1}
SHADOW_DTYPES = {"float16": 2, "bfloat16": 3}

Array = NDArray[Any]
Assignment = tuple[Any, ...]  # a function, of C where nothing may come between several of them, and its arguments


def address(array: Array) -> int:
    """Where the first element is."""
    return int(array.__array_interface__["data"][0])


def is_direct(array: Array) -> bool:
    """Whether an engine can walk the array as it lies in memory."""
    return array.flags.c_contiguous and array.flags.aligned


def order_of(array: Array) -> tuple[int, ...] | None:
    """The axes of a dense array from the slowest in memory to the fastest (Fortran order, transposes, channels_last).

    None if that is C order, and for arrays that are not dense.
    """
    if array.ndim < 2 or array.flags.c_contiguous or not array.flags.aligned:
        return None
    axes = tuple(sorted(range(array.ndim), key=lambda axis: -array.strides[axis]))
    return axes if array.transpose(axes).flags.c_contiguous else None
