"""What an array is to an engine: an address, a dtype, and whether it can be walked as it lies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = {np.dtype(np.float32): 0, np.dtype(np.float64): 1}
SHADOW_DTYPES = {"float16": 2, "bfloat16": 3}

Array = NDArray[Any]


def address(array: Array) -> int:
    """Where the first element is."""
    return int(array.__array_interface__["data"][0])


def is_direct(array: Array) -> bool:
    """Whether an engine can walk the array as it lies in memory."""
    return array.flags.c_contiguous and array.flags.aligned
