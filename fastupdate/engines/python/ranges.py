"""Sums and numbers of ranges of elements that a device has, for the host to settle."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from fastupdate.arrays import memory
from fastupdate.engines.python.measuring import Measured
from fastupdate.engines.python.stages import slot
from fastupdate.engines.records import BLOCK, ROW_CHUNK, Records, counted_before
from fastupdate.rules.rule import Rule
from fastupdate.stages import MEASURING

Integers = NDArray[np.int64]


@cache
def ranges_of(rule: Rule) -> dict[int, str]:
    """The slots that hold a number for each range of elements, and what ranges they are."""
    own: dict[int, str] = {k: rule.extents[name] for k, name in enumerate(rule.states)}
    stages = {slot(stage): stage.state.per for stage in MEASURING}
    return {k: extent for k, extent in (own | stages).items() if extent != "element"}


def matrices(tensors: Records) -> Integers:
    """How many there are in each tensor."""
    count: Integers = tensors["n"] // np.maximum(tensors["rows"] * tensors["columns"], 1)
    return count


def range_counts(tensors: Records, extent: str) -> Integers:
    """How many ranges each tensor has (csrc/core/extents.h)."""
    counts: dict[str, Integers] = {
        "row": matrices(tensors) * tensors["rows"],
        "column": matrices(tensors) * tensors["columns"],
        "matrix": matrices(tensors),
        "unit": tensors["n"] // np.maximum(tensors["unit_length"], 1),
    }
    return counts.get(extent, np.ones(len(tensors), np.int64))


def room(phase: Measured, tensor: Records) -> int:
    """How many float64 the sums of one tensor take."""
    [parts] = range_counts(tensor, "row") if phase.by_rows else -(-tensor["n"] // BLOCK)
    if phase.columns:
        [chunks] = matrices(tensor) * -(-tensor["rows"] // ROW_CHUNK) * tensor["columns"]
        parts += chunks
    return int(phase.terms * (1 + parts))


class Numbers:
    """The numbers of all ranges, one after the other.

    places  where the device has them
    values  those that were fetched, to which the records that it is made of lead from now on
    """

    def __init__(self, tensors: Records, extents: dict[int, str]) -> None:
        found, slots = [np.zeros(0, np.int64)], tensors["slot"].astype(np.int64)
        for column, extent in extents.items():
            arrays, first, which = np.unique(slots[:, column], return_index=True, return_inverse=True)
            counts = np.where(arrays, range_counts(tensors[first], extent), 0)
            starts, before = counted_before(counts), sum(map(len, found))
            found.append(np.repeat(arrays - 8 * starts, counts) + 8 * np.arange(counts.sum()))
            slots[:, column] = np.where(slots[:, column], 1 + before + starts[which], 0)
        self.places, self.values = np.concatenate(found), np.zeros(sum(map(len, found)))
        columns = list(extents)
        at = memory.address(self.values) + 8 * (slots[:, columns] - 1)
        tensors["slot"][:, columns] = np.where(slots[:, columns], at, 0)
