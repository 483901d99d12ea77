"""Cells: what tensors that are cut into ranges of elements add up in, and which rank has which of them.

A phase goes through a tensor by blocks or by chunks of rows (csrc/core/extents.h). A cell belongs to the rank that has
its first element; what others have of it is lent to that rank. What cells come to folds pairwise, so a rank need not
tell of each: nodes of that folding stand for all that they are of, and zeros for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastupdate.engines.records import BLOCK, ROW_CHUNK
from fastupdate.sharded.ranges import Range

Values = NDArray[np.float64]


class Grid(Protocol):
    """The cells of one tensor.

    begin(cell)   its first element; of the cell after the last, the number of elements
    next(i)       the first cell that begins at element i or after it
    alone         so many cells fold by themselves
    """

    @property
    def alone(self) -> int: ...
    def begin(self, cell: int) -> int: ...
    def next(self, i: int) -> int: ...


class Blocks:
    """Blocks of elements."""

    def __init__(self, n: int) -> None:
        self._n, self.alone = n, max(-(-n // BLOCK), 1)

    def begin(self, cell: int) -> int:
        return min(cell * BLOCK, self._n)

    def next(self, i: int) -> int:
        return -(-i // BLOCK)


class Chunks:
    """Chunks of rows, matrix by matrix."""

    def __init__(self, rows: int, columns: int) -> None:
        self._rows, self._columns = max(rows, 1), max(columns, 1)
        self.alone = -(-self._rows // ROW_CHUNK)

    def row(self, cell: int) -> int:
        """Its first row, of all that the tensor has."""
        matrix, chunk = divmod(cell, self.alone)
        return matrix * self._rows + min(chunk * ROW_CHUNK, self._rows)

    def begin(self, cell: int) -> int:
        return self.row(cell) * self._columns

    def next(self, i: int) -> int:
        matrix, rest = divmod(i, self._rows * self._columns)
        return matrix * self.alone + -(-rest // (ROW_CHUNK * self._columns))


class Vector:
    """All of a tensor as one cell."""

    alone = 1

    def __init__(self, n: int) -> None:
        self._n = n

    def begin(self, cell: int) -> int:
        return cell * self._n

    def next(self, i: int) -> int:
        return int(i > 0)


class Cell(NamedTuple):
    """A cell that several ranks have parts of: its elements, and of each rank that has some, which ones."""

    tensor: int
    begin: int
    end: int
    pieces: tuple[tuple[int, int, int], ...]  # rank, first element, one past the last

    @property
    def owner(self) -> int:
        return self.pieces[0][0]


def cut(tensor: int, grid: Grid, ranges: Sequence[Range]) -> Iterator[Cell]:
    """The cells of a tensor that ranks have parts of; ranges: of all ranks, in order."""
    cells = {grid.next(r.end) - 1 for r in ranges if r.begin < r.end and grid.begin(grid.next(r.end)) != r.end}
    for cell in sorted(cells):
        begin, end = grid.begin(cell), grid.begin(cell + 1)
        pieces = [(rank, max(begin, r.begin), min(end, r.end)) for rank, r in enumerate(ranges)]
        yield Cell(tensor, begin, end, tuple(piece for piece in pieces if piece[1] < piece[2]))


def nodes(first: int, last: int, alone: int) -> list[tuple[int, int]]:
    """The cells first … last − 1 in as few aligned nodes as there are: first cell and number of cells of each."""
    found = []
    while first < last:
        place = first % alone
        most = min(last - first, alone - place)
        size = min(place & -place or most, 1 << most.bit_length() - 1)
        while size > most:
            size >>= 1
        found.append((first, size))
        first += size
    return found


def folded(values: Values, largest: NDArray[np.bool_]) -> Values:
    """What a power of two of cells comes to: [cell][number]; the numbers that are maxima do not add up."""
    with np.errstate(over="ignore", invalid="ignore"):
        while len(values) > 1:
            a, b = values[0::2], values[1::2]
            values = np.where(largest, np.maximum(a, b), a + b)
    first: Values = values[0]
    return first
