"""What a node comes to, in words of 8 bytes: sums are float64; numbers that count elements share a word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastupdate.engines import records
from fastupdate.engines.records import BLOCK
from fastupdate.sharded.cells import Values


class Words:
    """Some of the sums that are kept of blocks (SUMS), in words.

    size   how many there are of a node
    most   blocks in a node, so that a word holds all counts
    """

    def __init__(self, fields: Sequence[str]) -> None:
        kinds = [records.SUMS[name].kind for name in fields]
        self._sums = [k for k, kind in enumerate(kinds) if kind == "f"]
        self._counts = [k for k, kind in enumerate(kinds) if kind != "f"]
        self._bits = 64 // len(self._counts)
        self.size = len(self._sums) + 1
        self.most = (1 << self._bits - 1) // BLOCK

    def packed(self, numbers: Values) -> Values:
        """[node][number] → [node][word]"""
        shared = np.zeros(len(numbers), np.uint64)
        for place, k in enumerate(self._counts):
            shared |= numbers[:, k].astype(np.uint64) << np.uint64(place * self._bits)
        return np.concatenate([numbers[:, self._sums], shared.view(np.float64)[:, None]], axis=1)

    def taken_apart(self, words: Values) -> Values:
        """[node][word] → [node][number]"""
        numbers = np.zeros((len(words), len(self._sums) + len(self._counts)))
        numbers[:, self._sums] = words[:, :-1]
        shared = np.ascontiguousarray(words[:, -1]).view(np.uint64)
        for place, k in enumerate(self._counts):
            numbers[:, k] = shared >> np.uint64(place * self._bits) & np.uint64((1 << self._bits) - 1)
        return numbers
