"""What an array is to an engine: an address, a dtype, and whether it can be walked as it lies."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Storage(NamedTuple):
    """A type that arrays are stored in.

    code   as engines know it (DType in csrc/core/plan.h)
    dtype  of NumPy headers over such memory; a library's own type of this name is known too
    bits   of new arrays that a step writes; narrow types that NumPy lacks are shown as their bits
    narrow read and written through a codec, by steps that compute in float32
    """

    code: int
    dtype: np.dtype[Any]
    bits: np.dtype[Any]
    narrow: bool


_BFLOAT16 = np.dtype([("bfloat16", np.uint16)], align=True)  # unlike an array of integers
STORAGE = {
    "float32": Storage(0, np.dtype(np.float32), np.dtype(np.float32), False),
    "float64": Storage(1, np.dtype(np.float64), np.dtype(np.float64), False),
    "float16": Storage(2, np.dtype(np.float16), np.dtype(np.float16), True),
    "bfloat16": Storage(3, _BFLOAT16, np.dtype(np.uint16), True),
}
NARROW = tuple(name for name, storage in STORAGE.items() if storage.narrow)
DTYPES = {storage.dtype: storage.code for storage in STORAGE.values() if not storage.narrow}  # that a step computes in
ITEM_SIZES = np.array([storage.dtype.itemsize for storage in STORAGE.values()], np.int64)  # by code
_NAMES = {storage.dtype: name for name, storage in STORAGE.items()}

Assignment = tuple[Any, ...]  # a function, of C where nothing may come between several of them, and its arguments


def address(array: Array) -> int:
    """Where the first element is."""
    return int(array.ctypes.data)  # __array_interface__ would crash where there is no memory for its dict


def type_name(dtype: np.dtype[Any]) -> str:
    """A type as messages name it."""
    name = _NAMES.get(dtype, dtype.name)
    return name if dtype.isnative else f"byte-swapped {name}"


def code_of(dtype: np.dtype[Any]) -> int | None:
    """How engines call this type; None if they do not read it."""
    storage = STORAGE.get(type_name(dtype))
    return None if storage is None else storage.code


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
