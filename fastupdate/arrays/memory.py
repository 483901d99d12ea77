"""What an array is to an engine: an address, a dtype, and whether it can be walked as it lies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
LINE = 64  # bytes of a cache line
HUGE = 2 << 20  # bytes of a huge page


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
# That a step computes in, the first ones in number.
DTYPES = {storage.dtype: storage.code for storage in STORAGE.values() if not storage.narrow}
ITEM_SIZES = np.array([storage.dtype.itemsize for storage in STORAGE.values()], np.int64)  # by code
_NAMES = {storage.dtype: name for name, storage in STORAGE.items()}

# What one look at an array's header tells (csrc/python/glance.h): address, elements, slices along the first axis, which
# `clip_unit_norm` clips one by one (vectors and scalars are one unit), code of its type or one that there is not,
# whether it is direct and can be written, and whether anybody looked.
HEADER = np.dtype(
    [
        ("address", "u8"), ("n", "i8"), ("units", "i8"), ("dtype", "u1"), ("direct", "?"), ("writable", "?"),
        ("seen", "?"), ("pad", "u4"),
    ]
)  # fmt: skip

Assignment = tuple[Any, ...]  # a function, of C where nothing may come between several of them, and its arguments


def item_sizes(codes: Any) -> NDArray[np.int64]:
    """By the codes of types, any size for a code that there is not. ITEM_SIZES[codes] dies where memory runs out."""
    found: NDArray[np.int64] = ITEM_SIZES.take(codes, mode="clip")
    return found


def address(array: Array) -> int:
    """Where the first element is."""
    return int(array.ctypes.data)  # __array_interface__ would crash where there is no memory for its dict


def glance(objects: Sequence[Any]) -> NDArray[np.void]:
    """A HEADER for each object; only those of exactly NumPy's arrays are seen, of a type known at a glance."""
    rows = np.zeros(len(objects), HEADER)
    try:
        from fastupdate import _core
    except ImportError:
        for k, x in enumerate(objects):
            if type(x) is np.ndarray and x.dtype.byteorder == "=" and code_of(x.dtype) is not None:
                rows[k] = _header(x)
    else:
        _core.glance(list(objects), rows)
    return rows


def addresses(arrays: Sequence[Array | None]) -> NDArray[np.uint64]:
    """Where each array is; 0 for None."""
    rows = glance(arrays)
    for k in np.flatnonzero(~rows["seen"]).tolist():
        array = arrays[k]
        rows["address"][k] = 0 if array is None else address(array)
    return rows["address"]


def headers(arrays: Sequence[Array]) -> NDArray[np.void]:
    """A HEADER for each array."""
    rows = glance(arrays)
    for k in np.flatnonzero(~rows["seen"]).tolist():
        rows[k] = _header(arrays[k])
    return rows


def _header(array: Array) -> tuple[int, ...]:
    code = code_of(array.dtype)
    unknown = len(STORAGE) if code is None else code
    units = len(array) if array.ndim > 1 else 1
    return address(array), array.size, units, unknown, is_direct(array), array.flags.writeable, True, 0


def room(size: int) -> Array:
    """So many zeroed bytes from a cache line on, that nobody can resize; large ones from a huge page on.

    NumPy asks for huge pages where it allocates 4 MiB or more. What is not touched takes no memory.
    """
    line = HUGE if size >= HUGE else LINE
    held = np.frombuffer(np.zeros(-(-size // line) * line + line, np.uint8).data, np.uint8)
    begin = -held.ctypes.data % line
    return held[begin : begin + size]


@cache
def type_name(dtype: np.dtype[Any]) -> str:
    """A type as messages name it."""
    name = _NAMES.get(dtype) or (f"the fields {', '.join(dtype.names)}" if dtype.names else dtype.name)
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
