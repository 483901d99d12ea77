"""Cells: what tensors that are cut into ranges of elements add up in, and which rank has which of them.

A phase goes through a tensor by blocks or by chunks of rows (csrc/core/extents.h). A cell belongs to the rank that has
its first element; what others have of it is lent to that rank. What cells come to folds pairwise, so a rank need not
tell of each: nodes of that folding stand for all that they are of, and zeros for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastupdate.engines.records import BLOCK, ROW_CHUNK
from fastupdate.rules.extent import Shape, matrix_of
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


def grids_of(shape: Shape) -> tuple[Blocks, Chunks]:
    """The blocks of a tensor, and its chunks."""
    return Blocks(prod(shape)), Chunks(*matrix_of(shape))


class Piece(NamedTuple):
    """What a rank has of a cell: which elements of its part of the tensor they are, and which ones of the cell."""

    rank: int
    here: Any
    there: Any


class Cell(NamedTuple):
    """A cell that several ranks have parts of.

    begin, end   its elements
    grid         whether it is one of blocks (0) or of chunks (1); None: the whole tensor, which is both
    owner        the rank that is lent the others' parts
    shape        of the cell's arrays there
    pieces       of each rank that has some
    """

    tensor: int
    begin: int
    end: int
    grid: int | None
    owner: int
    shape: Shape
    pieces: tuple[Piece, ...]


def cut(tensor: int, grid: int, of: Grid, ranges: Sequence[Range]) -> Iterator[Cell]:
    """The cells of a tensor that ranks have parts of; ranges: of all ranks. The owner has the first element."""
    some = sorted((r, rank) for rank, r in enumerate(ranges) if r.begin < r.end)
    cells = {of.next(r.end) - 1 for r, _ in some if of.begin(of.next(r.end)) != r.end}
    first = 0
    for cell in sorted(cells):
        begin, end = of.begin(cell), of.begin(cell + 1)
        while some[first][0].end <= begin:
            first += 1
        pieces = []
        for r, rank in islice(some, first, None):
            if r.begin >= end:
                break
            low, high = max(begin, r.begin), min(end, r.end)
            pieces.append(Piece(rank, slice(low - r.begin, high - r.begin), slice(low - begin, high - begin)))
        yield Cell(tensor, begin, end, grid, pieces[0].rank, (end - begin,), tuple(pieces))


def folded(values: Values, largest: NDArray[np.bool_]) -> Values:
    """What the cells of a node come to: [cell][number]; the numbers that are maxima do not add up."""
    with np.errstate(over="ignore", invalid="ignore"):
        while len(values) > 1:
            even = len(values) // 2 * 2
            a, b = values[0:even:2], values[1:even:2]
            values = np.concatenate([np.where(largest, np.maximum(a, b), a + b), values[even:]])
    first: Values = values[0]
    return first
