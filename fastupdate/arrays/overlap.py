"""Which arrays share memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import numpy as np

from fastupdate.arrays.memory import ITEM_SIZES, Array, address, headers, item_sizes
from fastupdate.arrays.place import Place

PERIODS = 8  # how many of the commonest strides are tried as periods of many arrays
PAIR = 64  # places of elements that are looked through in the time of one pair of arrays


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
    """No two arrays share an element; place_of(k) names the k-th in messages.

    What lies in one another, as the columns of a matrix do, is taken apart by their periods: work grows as the arrays'
    number, or as that of their elements where no period parts them, and not as the number of pairs.
    """
    if _clearly_apart(arrays):
        return
    groups = [[_laid(array, k) for k, array in enumerate(arrays) if array.size]]
    while groups:
        group = groups.pop()
        parts = _parts(group)
        if len(parts) > 1:
            groups += (part for part in parts if len(part) > 1)
        elif len(group) > 1:
            _check_group(sorted(group), arrays, place_of)


class _Laid(NamedTuple):
    """How an array lies in memory: its bytes, its number, its axes by rising stride as (stride, size)."""

    begin: int
    end: int
    number: int
    item: int
    axes: list[tuple[int, int]]


def _laid(array: Array, number: int) -> _Laid:
    axes = sorted((abs(stride), size) for size, stride in zip(array.shape, array.strides, strict=True) if size > 1)
    return _Laid(*bounds(array), number, array.itemsize, axes)


def _parts(group: list[_Laid]) -> list[list[_Laid]]:
    """Parts that share no byte, by their spans, or by those modulo one of the commonest strides; else the group."""
    strides = Counter(stride for laid in group for stride, _ in laid.axes if stride > laid.item)
    for period in (None, *(stride for stride, _ in strides.most_common(PERIODS))):
        parts = _connected([(*_span(laid, period), laid) for laid in group], period)
        if len(parts) > 1:
            return parts
    return [group]


def _span(laid: _Laid, period: int | None) -> tuple[int, int]:
    """The first byte that an array covers and the one past the last, modulo a period; the end may lie past it."""
    if period is None:
        return laid.begin, laid.end
    length = laid.item + sum(stride * (size - 1) for stride, size in laid.axes if stride % period)
    begin = laid.begin % period if length < period else 0
    return begin, begin + min(length, period)


def _connected(spans: list[tuple[int, int, _Laid]], period: int | None) -> list[list[_Laid]]:
    """Which spans reach over each other, directly or by way of others."""
    parts: list[list[_Laid]] = []
    begins: list[int] = []
    reach = 0
    for begin, end, laid in sorted(spans):
        if not parts or begin >= reach:
            parts.append([])
            begins.append(begin)
        parts[-1].append(laid)
        reach = max(reach, end)
    beyond = reach - period if period else 0  # the last part goes on at the beginning of the period
    around = sum(begin < beyond for begin in begins[:-1])
    return [*parts[around:-1], [laid for part in (*parts[:around], parts[-1]) for laid in part]]


def _check_group(group: list[_Laid], arrays: list[Array], place_of: Callable[[int], Place]) -> None:
    """Arrays that no period parts: pair by pair or, where there are so many that it takes less, by all their places."""
    stretches = sum(math.prod(size for _, size in _stretch(laid)[1]) for laid in group)
    many = PAIR * len(group) * (len(group) - 1) // 2 > stretches
    for first, second in _meeting(group) if many else combinations(group, 2):
        i, k = second.number, first.number
        check_separate(arrays[i], arrays[k], place_of(i), place_of(k))


def _stretch(laid: _Laid) -> tuple[int, list[tuple[int, int]]]:
    """The length of the stretches of bytes that an array is made of, and the axes along which they are repeated."""
    length, axes = laid.item, laid.axes
    while axes and axes[0][0] == length:
        length, axes = length * axes[0][1], axes[1:]
    return length, axes


def _meeting(group: list[_Laid]) -> list[tuple[_Laid, _Laid]]:
    """The first two that share a byte, by the places of all stretches; none if all are apart."""
    places, lengths = [], []
    for laid in group:
        length, axes = _stretch(laid)
        begins = np.array([laid.begin])
        for stride, size in axes:
            begins = np.add.outer(stride * np.arange(size), begins).ravel()
        places.append(begins)
        lengths.append(length)
    counts = list(map(len, places))
    begins = np.concatenate(places)
    order = np.argsort(begins)
    ends = (begins + np.repeat(lengths, counts))[order]
    meet = np.flatnonzero(ends[:-1] > begins[order[1:]])[:1]
    owners = np.repeat(np.arange(len(group)), counts)[order]
    return [(group[min(pair)], group[max(pair)]) for k in meet.tolist() for pair in [owners[k : k + 2].tolist()]]


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
