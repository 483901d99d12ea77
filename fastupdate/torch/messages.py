"""Messages of ranks that share parameters, by torch.distributed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import distributed

from fastupdate.sharded.cells import Values

TAG = 1024  # of messages from one rank to another, which others may send too


class Peers:
    """The ranks along one axis of a mesh, or along several, for which there is no process group.

    ranks   as all know them
    rank    which of them this one is
    """

    def __init__(self, groups: list[Any], ranks: list[int]) -> None:
        """groups: of each axis, the ranks along it that this one is among. ranks: of all axes, the last one fastest."""
        self._groups, self.ranks, self.rank = groups, ranks, ranks.index(distributed.get_rank())

    @property
    def is_fake(self) -> bool:
        """Whether there are no other processes: torch's stand-in for them."""
        return any(distributed.get_backend(group) == "fake" for group in self._groups)

    def gather(self, sent: Values, told: Values) -> None:
        """Tells all the message of this one, and takes in those of all: told[rank]."""
        for group in reversed(self._groups):
            found = np.zeros((distributed.get_world_size(group), *sent.shape))
            distributed.all_gather([*torch.from_numpy(found)], torch.from_numpy(sent), group=group)
            sent = found
        told[...] = sent.reshape(told.shape)

    def gather_objects(self, sent: Any) -> list[Any]:
        """The same of what can be pickled."""
        told = [sent]
        for group in reversed(self._groups):
            found: list[Any] = [None] * distributed.get_world_size(group)
            distributed.all_gather_object(found, told, group=group)
            told = [each for of_rank in found for each in of_rank]
        return told

    def exchange(self, into: Any, out: Any, come: list[int], go: list[int]) -> None:
        """Gives each rank its elements of `out`, and takes in those that come from each; how many is known."""
        if len(self._groups) == 1:
            distributed.all_to_all_single(into, out, come, go, group=self._groups[0])
            return
        works: list[Any] = []
        for peer, (rank, to, sent) in enumerate(zip(self.ranks, into.split(come), out.split(go), strict=True)):
            if peer == self.rank:
                to.copy_(sent)
                continue
            works += [distributed.irecv(to, rank, tag=TAG)] if len(to) else []
            works += [distributed.isend(sent, rank, tag=TAG)] if len(sent) else []
        for work in works:
            work.wait()
