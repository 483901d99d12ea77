"""Which arrays share memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastupdate.arrays.memory import ITEM_SIZES, Array, address, headers, item_sizes
from fastupdate.arrays.place import Place


def check_distinct(array: Array, place: Place) -> None:
    """Every element has an address of its own: no broadcast axes, no overlapping windows."""
    axes = sorted((abs(stride), size) for size, stride in zip(array.shape, array.strides, strict=True) if size > 1)
    reach = array.itemsize
    for stride, size in axes:
        if array.size and stride < reach:
            place.fail(
                ValueError, "elements at addresses of their own", f"strides {array.strides} for shape {array.shape}"
            )
        reach += stride * (size - 1)


def bounds(array: Array) -> tuple[int, int]:
    """First and one-past-last byte."""
    begin = end = address(array)
    if not array.size:
        return begin, end
    for size, stride in zip(array.shape, array.strides, strict=True):
        reach = (size - 1) * stride
        begin, end = min(begin, begin + reach), max(end, end + reach)
    return begin, end + array.itemsize


def check_overlaps(arrays: list[Array], place_of: Callable[[int], Place]) -> None:
    """No two arrays share an element; place_of(k) names the k-th in messages."""
    if _clearly_apart(arrays):
        return
    spans = sorted((*bounds(a), i) for i, a in enumerate(arrays) if a.size)
    open_spans: list[tuple[int, int]] = []
    for begin, end, i in spans:
        open_spans = [(stop, k) for stop, k in open_spans if stop > begin]
        for _, k in open_spans:
            check_separate(arrays[i], arrays[k], place_of(i), place_of(k))
        open_spans.append((end, i))


def _clearly_apart(arrays: list[Array]) -> bool:
    """Whether no two reach over the same bytes."""
    seen = headers(arrays)
    begins, sizes, known = seen["address"], seen["n"], seen["dtype"] < len(ITEM_SIZES)
    ends = begins + (sizes * item_sizes(seen["dtype"])).astype(np.uint64)
    for k in np.flatnonzero(~(seen["direct"] & known)).tolist():
        begins[k], ends[k] = bounds(arrays[k])
    order = np.argsort(begins.copy())  # NumPy 2.0.0 dies where memory runs out while it copies a strided array here
    order = order[sizes[order] > 0]
    return bool((ends[order[:-1]] <= begins[order[1:]]).all())


def check_separate(a: Array, b: Array, place_a: Place, place_b: Place) -> None:
    """The two arrays share no element."""
    try:
        shared = np.shares_memory(a, b, max_work=10**6)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        shared = True
    if shared:
        place_a.fail(ValueError, f"memory apart from {place_b.argument}", "overlapping arrays")
