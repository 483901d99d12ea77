"""Boxes: what ranks have of tensors that are cut along other axes than the first, or along several.

A box is no range of elements, so one rank is lent all others' of such a tensor for what it adds up to (it is one cell),
and tells what that is. What is here moves by itself, as a tensor whose rows, columns, matrices and slices are some of
those of the whole one: numbers of them are copied from those of the whole when they are settled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

from fastupdate.arrays.memory import Array, address
from fastupdate.engines import records
from fastupdate.engines.records import BLOCK, Records
from fastupdate.rules.extent import Extent, Shape, Side
from fastupdate.sharded.cells import Cell, Piece, grids_of
from fastupdate.sharded.elements import Elements, in_parts
from fastupdate.sharded.ranges import Range

Box = tuple[slice, ...]  # along each axis


def shape_of_box(box: Box) -> Shape:
    """Its own shape."""
    return tuple(each.stop - each.start for each in box)


def is_range(box: Box, shape: Shape) -> bool:
    """Whether it is cut along the first axis alone, so that its elements follow each other."""
    return shape_of_box(box)[1:] == shape[1:]


def whole(tensor: int, shape: Shape, boxes: Sequence[Box], owner: int) -> Cell:
    """A tensor that one rank is lent. boxes: of each rank"""
    pieces = tuple(Piece(rank, ..., box) for rank, box in enumerate(boxes) if prod(shape_of_box(box)))
    return Cell(tensor, 0, prod(shape), None, owner, shape, pieces)


def ranges_in(extent: Extent | Side, box: Box) -> Box:
    """Which of a tensor's ranges of this extent, which is not "element", are those of the box."""
    found: dict[str, Box] = {
        "row": box[:-1] if len(box) > 1 else box,
        "column": (*box[:-2], *box[-1:]) if len(box) > 1 else (),
        "matrix": box[:-2],
        "unit": box[:1] if len(box) > 1 else (),
    }
    return found.get(extent, ())


class Numbers(NamedTuple):
    """An array of numbers of ranges, of a whole tensor, and of what is here of it."""

    tensor: int
    slot: int
    extent: Extent | Side
    whole: Array
    here: Array


class Boxes:
    """What is here of the tensors that are in boxes.

    places    which ones they are
    tensors   TENSOR, as of tensors of their own
    blocks    how many there are, with those before
    """

    def __init__(self, tensors: Records, boxes: Mapping[int, Box], numbers: Iterable[Numbers], blocks: int) -> None:
        """tensors: of what is here of all. numbers: of these. blocks: those before are others'"""
        self.places = [*boxes]
        self._shapes = [*map(shape_of_box, boxes.values())]
        self.tensors = tensors[self.places]
        self.tensors["first_block"] = blocks + records.first_blocks(self.tensors["n"])
        self.blocks = blocks + int((-(-self.tensors["n"] // BLOCK)).sum())
        self._pairs: list[tuple[Array, Array]] = []
        for tensor, slot, extent, all_of_it, here in numbers:
            self.tensors["slot"][self.places.index(tensor), slot] = address(here)
            which: Any = (*ranges_in(extent, boxes[tensor]), ...)  # so that one number is a view, too
            self._pairs.append((here, all_of_it[which]))

    def elements(self) -> Elements:
        """All of them."""
        whole = [(row, Range(0, n, n)) for row, n in enumerate(map(prod, self._shapes))]
        of = [grids_of(shape) for shape in self._shapes]
        return Elements(self.tensors, [in_parts((row, r, of[row][grid]) for row, r in whole) for grid in (0, 1)])

    def follow(self) -> None:
        """Takes over the numbers of ranges."""
        for here, there in self._pairs:
            here[...] = there
