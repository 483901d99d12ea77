"""What ranks tell each other of the sums that a phase of a step has found, each in the cells that are its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastupdate.rules.extent import Shape
from fastupdate.sharded.boxes import Box, whole
from fastupdate.sharded.cells import Cell, Values, folded
from fastupdate.sharded.ranges import MANY, Range, nodes
from fastupdate.sharded.words import Words


class Run(NamedTuple):
    """Cells from one on: `size` of them fold to what is told, and so do the next ones, `told` times."""

    first: int
    size: int
    told: int

    @property
    def cells(self) -> slice:
        return slice(self.first, self.first + self.size * self.told)

    @property
    def firsts(self) -> slice:
        """The first one of each that fold."""
        return slice(self.first, self.first + self.size * self.told, self.size)


class Known(NamedTuple):
    """The cells first … last − 1 of a tensor, of which one rank knows the numbers.

    values   of all cells of the tensor: [cell][number]
    alone    so many cells fold by themselves; 0: each is told
    """

    values: Values
    first: int
    last: int
    alone: int

    def told(self, most: int) -> list[Run]:
        """What is told of them. most: cells in a node"""
        if self.alone <= 1:  # which fold with no others
            return [Run(self.first, 1, self.last - self.first)]
        found: list[Run] = []
        for first, size in nodes(self.first, self.last, self.alone, most):
            if found and found[-1].size == size and found[-1].cells.stop == first:
                found[-1] = Run(found[-1].first, size, found[-1].told + 1)
            else:
                found.append(Run(first, size, 1))
        return found


class Group(NamedTuple):
    """Ranks that share tensors by ranges of their elements; or by boxes, where one rank is lent the others' (boxes.py).

    handle   what the library of messages knows them by
    rank     this one, among them
    ranges   [rank][place in tensors]; of a tensor in boxes one rank, which sums it, has all, and others have nothing
    boxes    of each rank, by tensor
    """

    handle: Any
    rank: int
    tensors: list[int]
    ranges: list[list[Range]]
    boxes: Mapping[int, list[Box]] = {}

    def own(self) -> dict[int, Range]:
        """The ranges that this rank has, or sums, by tensor."""
        return dict(zip(self.tensors, self.ranges[self.rank], strict=True))

    def wholes(self, shapes: Sequence[Shape]) -> Iterator[Cell]:
        """The tensors in boxes, as cells of those that sum them. shapes: of all tensors"""
        for k, of_rank in zip(self.tensors, zip(*self.ranges, strict=True), strict=True):
            if k in self.boxes:
                owner = next((rank for rank, r in enumerate(of_rank) if r.end), 0)
                yield whole(k, shapes[k], self.boxes[k], owner)

    def of(self, tensors: set[int]) -> Group:
        """What they share of these tensors."""
        places = [place for place, k in enumerate(self.tensors) if k in tensors]
        ranges = [[of_rank[place] for place in places] for of_rank in self.ranges]
        boxes = {k: boxes for k, boxes in self.boxes.items() if k in tensors}
        return self._replace(tensors=[self.tensors[place] for place in places], ranges=ranges, boxes=boxes)


class Telling:
    """One message of each rank of a group to all others.

    gather      (handle, sent, told): the message of each rank → those of all
    known       by each rank
    largest     which of the numbers of a cell are maxima, and do not add up
    words       how they are told, if not as they are
    """

    def __init__(
        self,
        gather: Callable[[Any, Values, Values], None],
        group: Group,
        known: list[list[Known]],
        largest: list[bool],
        words: Words | None = None,
    ) -> None:
        self._gather, self._handle, self._rank, self._words = gather, group.handle, group.rank, words
        most = MANY if words is None else words.most
        self._known = [[(s, s.told(most)) for s in each if s.first < s.last] for each in known]
        self._largest = np.array(largest, bool)
        lengths = [sum(self._size(*each) for each in of_rank) for of_rank in self._known]
        self.bytes = 8 * lengths[self._rank]
        self._sent, self._told = np.zeros(max(lengths)), np.zeros((len(lengths), max(lengths)))

    def _width(self, known: Known) -> int:
        return int(known.values.shape[1]) if self._words is None else self._words.size

    def _size(self, known: Known, told: list[Run]) -> int:
        return sum(run.told for run in told) * self._width(known)

    def tell(self) -> None:
        """Tells what is known here; afterwards the others' numbers are there too, or such as fold to the same."""
        if not len(self._sent):
            return
        at, sent = 0, self._sent
        for known, told in self._known[self._rank]:
            for run in told:
                values = self._fold(known.values[run.cells].reshape(run.told, run.size, -1))
                if self._words is not None:
                    values = self._words.packed(values)
                sent[at : at + values.size] = values.reshape(-1)
                at += values.size
        self._gather(self._handle, sent, self._told)
        for rank, of_rank in enumerate(self._known):
            if rank != self._rank:
                self._take(self._told[rank], of_rank)

    def _fold(self, values: Values) -> Values:
        """[run][cell][number] → [run][number]; numbers of a cell are equally many for each sum."""
        return folded(values.swapaxes(0, 1), np.repeat(self._largest, values.shape[2] // len(self._largest)))

    def _take(self, told: Values, of_rank: list[tuple[Known, list[Run]]]) -> None:
        at = 0
        for known, found in of_rank:
            width = self._width(known)
            if known.alone > 1:
                known.values[known.first : known.last] = 0
            for run in found:
                values = told[at : at + run.told * width].reshape(run.told, width)
                known.values[run.firsts] = self._words.taken_apart(values) if self._words else values
                at += run.told * width
