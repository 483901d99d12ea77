"""Pieces of a batch: what their gradients add up to, in one order whichever rank has computed which.

Pieces 0 … n − 1 fold pairwise, as the blocks of a tensor do (ranges.py): two that are siblings as soon as both are
there. A rank has some that follow each other; what does not fold among them, it hands on as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np


class Part(NamedTuple):
    """What 2 ** level pieces add up to: gradients of all tensors, in their order."""

    first: int
    level: int
    gradients: list[Any]


def _siblings(first: int, level: int, other: int) -> bool:
    return level == other and (first >> level) % 2 == 0


def levels(pieces: range) -> list[int]:
    """The levels of what a rank hands on that has these pieces, in order."""
    found: list[tuple[int, int]] = []
    for first in pieces:
        found.append((first, 0))
        while len(found) > 1 and _siblings(*found[-2], found[-1][1]):
            found.pop()
            found[-1] = (found[-1][0], found[-1][1] + 1)
    return [level for _, level in found]


class Pieces:
    """The pieces of a rank since the last step.

    parts   what they add up to so far
    count   how many there are
    """

    def __init__(self, begin: int) -> None:
        """begin: the first of them, among those of all ranks."""
        self._begin = begin
        self.parts: list[Part] = []
        self.count = 0

    def add(self, gradients: list[Any]) -> None:
        """Takes in the next piece: arrays or tensors that are written from now on."""
        self.parts.append(Part(self._begin + self.count, 0, gradients))
        self.count += 1
        with np.errstate(over="ignore", invalid="ignore"):
            while len(self.parts) > 1 and _siblings(*self.parts[-2][:2], self.parts[-1].level):
                self._fold(self.parts[-2].level + 1)

    def _fold(self, level: int) -> None:
        """Adds the last part to the one before."""
        last = self.parts.pop()
        first = self.parts[-1]
        for total, more in zip(first.gradients, last.gradients, strict=True):
            total += more  # in place
        self.parts[-1] = first._replace(level=level)

    def whole(self) -> list[Any]:
        """What all add up to, whatever their number."""
        with np.errstate(over="ignore", invalid="ignore"):
            while len(self.parts) > 1:
                self._fold(self.parts[-2].level)
        return self.parts[0].gradients

    def forget(self) -> None:
        """Lets go of them."""
        self.parts, self.count = [], 0


def share(pieces: int, rank: int, ranks: int) -> range:
    """The pieces of a rank."""
    return range(rank * pieces // ranks, (rank + 1) * pieces // ranks)


def nodes(pieces: int, ranks: int) -> Iterator[tuple[int, int]]:
    """Of what all ranks hand on, in order: place and level."""
    found = [level for rank in range(ranks) for level in levels(share(pieces, rank, ranks))]
    yield from enumerate(found)
