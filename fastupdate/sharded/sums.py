"""The sums of gradients of which each rank has ranges that begin where blocks do: those of whole tensors, on all."""

from __future__ import annotations

import numpy as np

from fastupdate.arrays.memory import DTYPES, Array, address
from fastupdate.engines.records import Records
from fastupdate.sharded.alike import Ranks
from fastupdate.sharded.ranges import Range
from fastupdate.sharded.reader import WORDS, Reader, Summand, Totals
from fastupdate.step.stepper import Stepper


class RankSums:
    """The sums of the gradients of some tensors, told by each rank to all in one message.

    Of each rank the message holds the sums of its nodes, tensor by tensor; those of the rank that has most determine
    its length.
    """

    def __init__(self, stepper: Stepper, ranks: Ranks, ranges: list[list[Range]], gradients: list[Array]) -> None:
        """ranges: of each rank, of all tensors. gradients: of what is here of each, which stay where they are."""
        self._ranks = ranks
        nodes = [[(k, node) for k, r in enumerate(of_rank) for node in r.nodes(WORDS.most)] for of_rank in ranges]
        rows = max(map(len, nodes))
        self._sent = np.zeros((rows, WORDS.size))
        self._told = np.zeros((ranks.count, rows, WORDS.size))
        here, own = nodes[ranks.rank], ranges[ranks.rank]
        codes = [DTYPES[np.dtype(gradients[k].dtype)] for k, _ in here]
        self._reader = Reader(stepper, [node.end - node.begin for _, node in here], codes)
        self._reader.rows["g_dtype"] = codes
        self._reader.rows["g"] = [
            address(gradients[k]) + (node.begin - own[k].begin) * gradients[k].itemsize for k, node in here
        ]
        self._gradients = gradients  # the reader knows where they are
        summands = (
            Summand(k, node.begin, node.level, rank * rows + row)
            for rank, of_rank in enumerate(nodes)
            for row, (k, node) in enumerate(of_rank)
        )
        self._totals = Totals(summands, len(gradients), ranks.count * rows)

    def totals(self, unit: float = 1.0) -> Records:
        """Σg² and the counts of each gradient, in units of `unit`, all ranks' parts together."""
        found = self._reader.read(1 / unit)
        self._sent[: len(found)] = WORDS.packed(found)
        self._ranks.comm.Allgather(self._sent, self._told)
        told = WORDS.taken_apart(self._told.reshape(-1, WORDS.size))
        self._totals.sums[: len(told)] = told
        return self._totals.folded()
