"""The messages of a step: gradients of all ranks become sums, each on the rank that has their parameters, and the moved
parameters come back to all; bucket by bucket, of which several are under way at a time.

CuPy's arrays are handed to MPI as they are, which has to be built for CUDA.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from fastupdate.arrays.memory import Array
from fastupdate.sharded import pieces as order
from fastupdate.sharded.alike import Ranks
from fastupdate.sharded.division import Bucket
from fastupdate.sharded.ranges import Folding

UNDER_WAY = 2  # buckets, beside the one that is being packed

Finish = Callable[[], int]  # waits for a message; the bucket that it is of


class Messages:
    """What is sent of some tensors.

    own   of each bucket, the summed gradients that this rank has, in a row
    """

    def __init__(self, ranks: Ranks, buckets: list[Bucket], params: Sequence[Array], pieces: int | None) -> None:
        """params: all of the tensors, flat. pieces: of a batch, which add up in one order; None: in MPI's."""
        self._ranks, self._comm, self._buckets, self._params = ranks, ranks.comm, buckets, params
        self._pieces = pieces
        if pieces is not None:
            nodes = [*order.nodes(pieces, ranks.count)]
            self._folding = Folding([nodes], len(nodes))
            handed = [order.share(pieces, rank, ranks.count) for rank in range(ranks.count)]
            self._nodes = [len(order.levels(each)) for each in handed]
        self.own = [np.empty_like(params[bucket.tensors[0]], shape=(bucket.counts[ranks.rank],)) for bucket in buckets]
        self._free: list[Array] = []
        self._most = max((self._needs(k) for k in range(len(buckets))), default=0)

    def _needs(self, k: int) -> int:
        """The bytes of the largest message about a bucket."""
        bucket, rank = self._buckets[k], self._ranks.rank
        elements = sum(bucket.counts)
        if self._pieces is not None:
            elements = max(elements * max(self._nodes[rank], 1), bucket.counts[rank] * self._folding.size)
        return int(elements * self.own[k].itemsize)

    def _take(self) -> Array:
        """Room for the largest message, which is to be given back."""
        return self._free.pop() if self._free else np.empty_like(self.own[0], dtype=np.uint8, shape=(self._most,))

    def _within(self, room: Array, k: int, size: int) -> Array:
        """A message about a bucket of so many elements."""
        return room[: size * self.own[k].itemsize].view(self.own[k].dtype)

    # -- gradients ----------------------------------------------------------------------------------------------------

    def reduced(self, parts: list[list[Array]]) -> Iterator[int]:
        """The buckets, each when the sums of its gradients are here. parts: gradients, flat, of one part or several."""
        send = self._reduce if self._pieces is None else self._hand_on
        yield from _pipelined(send(k, parts) for k in range(len(self._buckets)))

    def _reduce(self, k: int, parts: list[list[Array]]) -> Finish:
        bucket = self._buckets[k]
        room = self._take()
        message = self._within(room, k, sum(bucket.counts))
        for stretches in bucket.stretches:
            for s in stretches:
                message[s.offset : s.offset + s.end - s.begin] = parts[0][s.tensor][s.begin : s.end]
        self._wait_for_device(message)
        request = self._comm.Ireduce_scatter(message, self.own[k], bucket.counts)

        def finish() -> int:
            request.Wait()
            self._free.append(room)
            return k

        return finish

    def _hand_on(self, k: int, parts: list[list[Array]]) -> Finish:
        """Sends each rank what is its own of all parts, and adds up what comes in."""
        bucket, rank, ranks = self._buckets[k], self._ranks.rank, self._ranks.count
        rooms = [self._take(), self._take()]
        message, at = self._within(rooms[0], k, sum(bucket.counts) * len(parts)), 0
        for stretches in bucket.stretches:
            for gradients in parts:
                for s in stretches:
                    message[at : at + s.end - s.begin] = gradients[s.tensor][s.begin : s.end]
                    at += s.end - s.begin
        count = bucket.counts[rank]
        came = self._within(rooms[1], k, self._folding.size * count)
        sent = _counted([count * len(parts) for count in bucket.counts])
        self._wait_for_device(message)
        request = self._comm.Ialltoallv(
            [message, sent], [came, _counted([count * self._nodes[each] for each in range(ranks)])]
        )

        def finish() -> int:
            request.Wait()
            rows = came.reshape(self._folding.size, count)
            self._folding.fold(rows)
            self.own[k][...] = rows[self._folding.totals[0]]
            self._free += rooms
            return k

        return finish

    # -- parameters ---------------------------------------------------------------------------------------------------

    def gather(self, moved: Iterable[int]) -> None:
        """Gives all ranks the parameters of buckets, as soon as each has moved."""
        deque(_pipelined(self._gather(k) for k in moved), maxlen=0)

    def _gather(self, k: int) -> Finish:
        bucket, rank = self._buckets[k], self._ranks.rank
        room = self._take()
        message = self._within(room, k, sum(bucket.counts))
        for s in bucket.stretches[rank]:
            message[s.offset : s.offset + s.end - s.begin] = self._params[s.tensor][s.begin : s.end]
        self._wait_for_device(message)
        in_place = sys.modules["mpi4py.MPI"].IN_PLACE
        request = self._comm.Iallgatherv(in_place, [message, (bucket.counts, bucket.starts)])

        def finish() -> int:
            request.Wait()
            for each, stretches in enumerate(bucket.stretches):
                for s in stretches if each != rank else ():
                    self._params[s.tensor][s.begin : s.end] = message[s.offset : s.offset + s.end - s.begin]
            self._free.append(room)
            return k

        return finish

    def _wait_for_device(self, message: Any) -> None:
        """MPI reads as soon as it is called; what a device is to write before is waited for."""
        if not isinstance(message, np.ndarray):
            sys.modules["cupy"].cuda.get_current_stream().synchronize()


def _counted(counts: list[int]) -> tuple[list[int], list[int]]:
    """Counts, and where what is counted begins."""
    return counts, [0, *accumulate(counts[:-1])]


def _pipelined(started: Iterable[Finish]) -> Iterator[int]:
    """Finishes messages in order, each when some more have been started."""
    waiting: deque[Finish] = deque()
    for finish in started:
        waiting.append(finish)
        if len(waiting) > UNDER_WAY:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()
