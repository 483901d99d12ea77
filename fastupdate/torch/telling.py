"""What ranks tell each other of the sums that a phase of a step has found, each in the cells that are its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import distributed

from fastupdate.sharded.cells import Values, folded, nodes


class Stretch(NamedTuple):
    """The cells first … last − 1 of a tensor, of which one rank knows the numbers.

    values   of all cells of the tensor: [cell][number]
    alone    so many cells fold by themselves; 0: each is told
    """

    values: Values
    first: int
    last: int
    alone: int

    def told(self) -> list[tuple[int, int]]:
        """The first cell and the number of cells of what is told."""
        if self.alone:
            return nodes(self.first, self.last, self.alone)
        return [(self.first, self.last - self.first)] if self.first < self.last else []


class Telling:
    """One message of each rank of a group to all others.

    stretches   of each rank
    largest     which of the numbers of a cell are maxima, and do not add up
    """

    def __init__(self, group: Any, stretches: list[list[Stretch]], largest: list[bool]) -> None:
        self._group, self._rank = group, distributed.get_rank(group)
        self._stretches = [[(s, s.told()) for s in each if s.first < s.last] for each in stretches]
        self._largest = np.array(largest, bool)
        lengths = [sum(self._size(*each) for each in of_rank) for of_rank in self._stretches]
        self.bytes = 8 * lengths[self._rank]
        self._sent = torch.zeros(max(lengths), dtype=torch.float64)
        self._told = torch.zeros(len(lengths), max(lengths), dtype=torch.float64)

    @staticmethod
    def _size(stretch: Stretch, told: list[tuple[int, int]]) -> int:
        cells = len(told) if stretch.alone else stretch.last - stretch.first
        return cells * int(stretch.values.shape[1])

    def tell(self) -> None:
        """Tells what is known here; afterwards the others' numbers are there too, or such as fold to the same."""
        if not len(self._sent):
            return
        at, sent = 0, self._sent.numpy()
        for stretch, told in self._stretches[self._rank]:
            for first, size in told:
                values = stretch.values[first : first + size]
                if stretch.alone:
                    values = self._fold(values)
                sent[at : at + values.size] = values.reshape(-1)
                at += values.size
        distributed.all_gather([*self._told], self._sent, group=self._group)
        for rank, of_rank in enumerate(self._stretches):
            if rank != self._rank:
                self._take(self._told[rank].numpy(), of_rank)

    def _fold(self, values: Values) -> Values:
        """Numbers of a cell come in runs of equal length, one for each sum."""
        return folded(values, np.repeat(self._largest, values.shape[1] // len(self._largest)))

    @staticmethod
    def _take(told: Values, of_rank: list[tuple[Stretch, list[tuple[int, int]]]]) -> None:
        at = 0
        for stretch, found in of_rank:
            width = stretch.values.shape[1]
            if stretch.alone:
                stretch.values[stretch.first : stretch.last] = 0
            for first, size in found:
                count = 1 if stretch.alone else size
                stretch.values[first : first + count] = told[at : at + count * width].reshape(count, width)
                at += count * width
