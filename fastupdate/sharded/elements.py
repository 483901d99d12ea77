"""Elements that an engine measures or moves, in parts for its threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastupdate.engines.records import BLOCK, Records
from fastupdate.sharded.cells import Grid
from fastupdate.sharded.ranges import Range

PART = 64 * BLOCK  # elements that a thread works on at least
Parts = NDArray[np.int64]  # [part][row of records, first element, one past the last]


class Elements(NamedTuple):
    """Some of these records', in a phase that goes by blocks and in one that goes by rows."""

    tensors: Records
    parts: list[Parts]


def in_parts(ranges: Iterable[tuple[int, Range, Grid]]) -> Parts:
    """Ranges of rows of records, cut so that no part crosses into a cell that is not all there."""
    return np.array([part for each in ranges for part in _parts(*each)], np.int64).reshape(-1, 3)


def _parts(row: int, r: Range, of: Grid) -> Iterator[tuple[int, int, int]]:
    begin = r.begin
    while begin < r.end:
        end = min(of.begin(of.next(min(begin + PART, r.n))), r.end)
        if of.begin(of.next(begin)) != begin:  # in the midst of a cell
            end = min(of.begin(of.next(begin)), r.end)
        elif end == r.end < r.n and of.begin(of.next(end)) != end:
            last = of.begin(of.next(end) - 1)
            end = last if last > begin else end
        yield row, begin, end
        begin = end
