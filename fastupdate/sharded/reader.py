"""Sums of stretches of numbers, each summed as if it were a tensor of its own; and what they come to by tensor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastupdate.engines import records
from fastupdate.engines.records import BLOCK, Records, Tables
from fastupdate.sharded.ranges import Folding
from fastupdate.sharded.words import Words
from fastupdate.step.stepper import Stepper

FIELDS = ("gg", "nonfinite")  # of the sums of a gradient
WORDS = Words(FIELDS)  # as ranks tell them


class Reader:
    """Sums stretches of numbers.

    rows   TENSOR: of each stretch `g` and `g_dtype` are to be set before it is read
    """

    def __init__(self, stepper: Stepper, sizes: list[int], dtypes: list[int]) -> None:
        self.rows = np.zeros(len(sizes), records.TENSOR)
        self.rows["n"], self.rows["dtype"] = sizes, dtypes
        self.rows["first_block"] = records.first_blocks(self.rows["n"])
        self.rows["samples"], self.rows["scale"], self.rows["momentum"] = 1, 1.0, -1
        blocks = np.zeros(int((-(-self.rows["n"] // BLOCK)).sum()), records.SUMS)
        self._totals = np.zeros(len(sizes), records.SUMS)
        other = (np.zeros(1, records.GROUP), np.zeros(1, records.RECIPE), np.zeros(3, np.int64))
        tables = Tables(self.rows, *other, blocks)
        self._engine = stepper.backend.make_plan(stepper.rule, stepper.flags, tables)

    def read(self, scale: float) -> NDArray[np.float64]:
        """What each stretch, times `scale`, comes to: FIELDS."""
        if len(self.rows):
            self._engine.gradient_sums(scale)
            self._engine.fold(self._totals)
        return np.stack([self._totals[field].astype(np.float64) for field in FIELDS], axis=-1)


class Summand(NamedTuple):
    """A node of a tensor: where it begins, its level, and its place among the sums."""

    tensor: int
    begin: int
    level: int
    place: int


class Totals:
    """What the sums of nodes come to, tensor by tensor.

    sums   [place][field]: of the nodes, in any order, to be set before they are folded
    """

    def __init__(self, nodes: Iterable[Summand], tensors: int, places: int) -> None:
        of_tensor: list[list[tuple[int, int]]] = [[] for _ in range(tensors)]
        for node in sorted(nodes):
            of_tensor[node.tensor].append((node.place, node.level))
        self._tensors, self._folding = tensors, Folding(of_tensor, places)
        totals = np.array(self._folding.totals, np.int64)
        self._filled = np.flatnonzero(totals >= 0)
        self._totals = totals[self._filled]
        self.sums = np.zeros((self._folding.size, len(FIELDS)))

    def folded(self) -> Records:
        """Σg² and the non-finite elements of each tensor."""
        self._folding.fold(self.sums)
        totals = np.zeros(self._tensors, records.SUMS)
        for column, field in enumerate(FIELDS):
            totals[field][self._filled] = self.sums[self._totals, column]
        return totals
