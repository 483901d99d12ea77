"""What one look at many headers tells, and the memory that states are made in."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
import pytest
from cases import by_backend, random_arrays

import fastupdate as fu
from fastupdate.arrays import memory, overlap
from fastupdate.arrays.device import zeros_like
from fastupdate.arrays.place import Place


class Own(np.ndarray[Any, Any]):
    """A subclass, which may be a header over memory that is elsewhere."""


def locked(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


BASE = np.arange(1.0, 65, dtype=np.float32)
OBJECTS: dict[str, tuple[Any, bool]] = {
    "plain": (BASE, True),
    "matrix": (BASE.reshape(8, 8), True),
    "transposed": (BASE.reshape(8, 8).T, True),
    "strided": (BASE[::2], True),
    "scalar": (np.ones(()), True),
    "empty": (np.ones((0, 3)), True),
    "read-only": (locked(np.ones(3)), True),
    "float16": (np.ones(3, np.float16), True),
    "integers": (np.ones(3, np.int32), False),
    "swapped": (np.ones(3, np.dtype(np.float64).newbyteorder()), False),
    "of ctypes": (np.ctypeslib.as_array((ctypes.c_float * 3)()), False),  # little-endian by name, and so native
    "misaligned": (np.zeros(33, np.uint8)[1:].view(np.float32), True),
    "subclass": (np.ones(3).view(Own), False),
    "list": ([1.0], False),
    "None": (None, False),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_headers_are_seen_alike_with_and_without_the_native_module(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, seen = OBJECTS[name]
    native = memory.glance([x])
    monkeypatch.delattr(fu, "_core", raising=False)
    monkeypatch.setitem(sys.modules, "fastupdate._core", None)
    assert memory.glance([x]) == native
    assert native["seen"][0] == seen
    if seen:
        told = tuple(native[["address", "n", "units", "direct", "writable"]][0])
        units = len(x) if x.ndim > 1 else 1
        assert told == (x.ctypes.data, x.size, units, x.flags.c_contiguous and x.flags.aligned, x.flags.writeable)


@pytest.mark.parametrize("kind", [ctypes.c_float, ctypes.c_double])
@by_backend
def test_numbers_of_ctypes_are_numbers(kind: Any, backend: str) -> None:
    """Their byte order has another name than NumPy's own."""
    arrays = [np.ctypeslib.as_array((kind * 3)()) for _ in range(2)]
    arrays[1][:] = 1
    assert arrays[0].dtype.byteorder == "<"
    fu.SGD(arrays[:1], lr=0.5, backend=backend).step(arrays[1:])
    assert arrays[0].tolist() == [-0.5] * 3


MANY = np.arange(1.0, 101)
NEIGHBOURS: dict[str, tuple[list[np.ndarray], str | None]] = {
    "apart": ([MANY[50:], MANY[:50]], None),
    "empty within": ([MANY, MANY[10:10]], None),
    "interleaved": ([MANY[::2], MANY[1::2]], None),
    "one element": ([MANY[50:], MANY[90:], MANY[:10]], "b"),
    "one in another": ([MANY[:10], MANY, MANY[99:]], "b"),
    "reversed": ([MANY[9::-1], MANY[:5]], "b"),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_overlaps_are_found(name: str) -> None:
    arrays, found = NEIGHBOURS[name]
    places = [Place("adam", letter) for letter in "abc"][: len(arrays)]
    if found is None:
        overlap.check_overlaps(arrays, places.__getitem__)
        return
    with pytest.raises(ValueError, match=r"\[adam\] [abc]: expected memory apart from [abc]"):
        overlap.check_overlaps(arrays, places.__getitem__)


def test_new_arrays_are_zero_aligned_apart_and_cannot_be_resized() -> None:
    like = random_arrays(0, [(3, 4), (3, 4), (3, 4), (5,), (5,), (), (), (0, 2), (0, 2), (600, 1000)], np.float32)
    orders = [None, None, (1, 0), None, None, None, None, None, None, (1, 0)]
    for dtype in ("float32", "float64", "bfloat16"):
        made = zeros_like(like, [dtype] * len(like), orders)
        for old, new, order in zip(like, made, orders, strict=True):
            assert (new.shape, new.dtype) == (old.shape, memory.STORAGE[dtype].bits)
            assert (new.ctypes.data % memory.LINE, new.flags.writeable, new.any()) == (0, True, False)
            assert new.transpose(order or range(new.ndim)).flags.c_contiguous
            with pytest.raises(ValueError, match="own"):
                new.resize((7, 7))
        overlap.check_overlaps(made, lambda k: Place("adam", str(k)))
        spans = [overlap.bounds(array) for array in made if array.size]
        assert spans == sorted(spans)
