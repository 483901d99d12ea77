"""Sums over tensors that are cut into ranges of elements (C order), to the bits of sums over the whole ones.

A tensor sums in blocks of 1024 elements, which fold pairwise (csrc/core/sums.h). Of its range, an owner sums the blocks
that lie within it, in as few nodes of that folding as there are; the elements at its ends, of blocks that reach into
other ranges, are handed over as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastupdate.engines.records import BLOCK

MANY = 1 << 62  # blocks


def nodes(first: int, last: int, alone: int, most: int = MANY) -> list[tuple[int, int]]:
    """The blocks (or other cells) first … last − 1 in as few nodes as there are: first one and number of each.

    Each is a power of two of blocks that begins at a multiple of that, or what is left at the end of `alone` blocks,
    which fold by themselves. most: blocks in a node, a power of two.
    """
    found = []
    while first < last:
        place = first % alone
        limit, rest = min(place & -place or most, most), min(last - first, alone - place)
        ends = rest == alone - place and rest <= limit
        size = rest if ends else 1 << min(rest, limit).bit_length() - 1
        found.append((first, size))
        first += size
    return found


class Node(NamedTuple):
    """Blocks that fold together, 2 ** level ones or the last ones of a tensor: which elements."""

    begin: int
    end: int
    level: int


class Range(NamedTuple):
    """The elements begin … end − 1 of a tensor of n."""

    begin: int
    end: int
    n: int

    @property
    def head(self) -> int:
        """Where the first block begins that begins in the range; its end, if none does."""
        return min(-(-self.begin // BLOCK) * BLOCK, self.end)

    @property
    def tail(self) -> int:
        """Where the last block ends that lies in the range; where the first one begins, if none does."""
        return self.end if self.end == self.n else max(self.end // BLOCK * BLOCK, self.head)

    def nodes(self, most: int = MANY) -> Iterator[Node]:
        """The blocks within, in order. most: blocks in a node."""
        last = -(-self.tail // BLOCK) if self.head < self.tail else 0
        for first, size in nodes(self.head // BLOCK, last, -(-self.n // BLOCK), most):
            yield Node(first * BLOCK, min((first + size) * BLOCK, self.tail), size.bit_length() - 1)

    def ends(self) -> Iterator[tuple[int, int]]:
        """What lies in blocks that reach into other ranges: first element, and one past the last."""
        for begin, end in ((self.begin, self.head), (self.tail, self.end)):
            if begin < end:
                yield begin, end


class Folding:
    """Additions by which the sums of nodes become those of tensors: rounds of them, each all at once.

    totals   where the sum of each tensor is afterwards; −1: it has no elements
    size     how many places there are
    """

    def __init__(self, tensors: Iterable[list[tuple[int, int]]], size: int) -> None:
        """tensors: of each, in order, the places and levels of its nodes. size: places of nodes."""
        self._depth = [0] * size
        self._adds: list[list[tuple[int, int, int]]] = []
        self.totals = [self._fold(nodes) for nodes in tensors]
        self.size = len(self._depth)
        self._rounds = [tuple(np.array(adds).T) for adds in self._adds]

    def _add(self, a: int, b: int) -> int:
        depth = max(self._depth[a], self._depth[b])
        if depth == len(self._adds):
            self._adds.append([])
        self._adds[depth].append((len(self._depth), a, b))
        self._depth.append(depth + 1)
        return len(self._depth) - 1

    def _fold(self, nodes: list[tuple[int, int]]) -> int:
        """As `Pairwise` in csrc/core/sums.h does, node by node."""
        found: dict[int, int] = {}  # by level
        for place, level in nodes:
            while level in found:
                place, level = self._add(found.pop(level), place), level + 1
            found[level] = place
        total = -1
        for level in sorted(found):
            total = found[level] if total < 0 else self._add(found[level], total)
        return total

    def fold(self, sums: NDArray[np.float64]) -> None:
        """Adds up; the sums of the nodes are in the first places."""
        with np.errstate(over="ignore", invalid="ignore"):
            for to, a, b in self._rounds:
                sums[to] = sums[a] + sums[b]
