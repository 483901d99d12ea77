"""Who has what of a list of tensors: ranges of elements that begin where blocks of 1024 do, or tensors as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from fastupdate.arrays.memory import Array
from fastupdate.engines.records import BLOCK
from fastupdate.rules.rule import Rule
from fastupdate.sharded.ranges import Range
from fastupdate.step.options import Settings

BUCKET = 32 << 20  # bytes of parameters that messages are about, or one tensor if that is more


class Stretch(NamedTuple):
    """The elements begin … end − 1 of a tensor, and where they are in a message."""

    tensor: int
    begin: int
    end: int
    offset: int


class Bucket(NamedTuple):
    """Tensors that messages are about together: what each rank has of them, in a row.

    tensors     first and last + 1
    stretches   of each rank
    counts      elements of each rank
    """

    tensors: tuple[int, int]
    stretches: list[list[Stretch]]
    counts: list[int]

    @property
    def starts(self) -> list[int]:
        """Where the elements of each rank begin in a message."""
        return [0, *accumulate(self.counts[:-1])]


def is_by_elements(rule: Rule, settings: Settings) -> bool:
    """Whether a step moves each element by itself, or by sums over the whole list, so that ranges of a tensor can be on
    several ranks."""
    extents = {extent for phase in rule.phases for total in phase.sums.values() for extent in total.extents}
    sums = not extents <= {"list"} or rule.matrix is not None
    return not (sums or settings.measuring or settings.clip_unit_norm is not None)


class Division:
    """Which ranges of some tensors each rank has.

    ranges   of each rank, those of all tensors; empty where it has nothing of one
    """

    def __init__(self, arrays: Sequence[Array], ranks: int, by_elements: bool) -> None:
        self._dtypes = [array.dtype for array in arrays]
        self._sizes = [int(array.size) for array in arrays]
        self._ranks = ranks
        self._runs = [*self._alike(range(len(arrays)))]
        self.ranges = [[Range(0, 0, n) for n in self._sizes] for _ in range(ranks)]
        if by_elements:
            self._by_blocks()
        else:
            self._by_tensors([array.size * min(array.shape or (1,)) for array in arrays])

    def _alike(self, tensors: Sequence[int]) -> Iterator[list[int]]:
        """Tensors of one type that follow each other, up to about the size of a bucket."""
        run: list[int] = []
        size = 0
        for k in tensors:
            own = self._sizes[k] * self._dtypes[k].itemsize
            if run and (self._dtypes[k] != self._dtypes[run[-1]] or size + own > BUCKET):
                yield run
                run, size = [], 0
            run.append(k)
            size += own
        if run:
            yield run

    def _by_blocks(self) -> None:
        """Each rank has as many blocks of each bucket as the others, or one less."""
        for run in self._runs:
            blocks = [-(-self._sizes[k] // BLOCK) for k in run]
            total, first = sum(blocks), 0
            cuts = [rank * total // self._ranks for rank in range(self._ranks + 1)]
            for k, count in zip(run, blocks, strict=True):
                for rank in range(self._ranks):
                    begin, end = (min(max(cut - first, 0), count) * BLOCK for cut in cuts[rank : rank + 2])
                    if begin < end:
                        self.ranges[rank][k] = Range(begin, min(end, self._sizes[k]), self._sizes[k])
                first += count

    def _by_tensors(self, costs: list[int]) -> None:
        for k, rank in enumerate(balanced(costs, [0] * self._ranks)):
            self.ranges[rank][k] = Range(0, self._sizes[k], self._sizes[k])

    def buckets(self, tensors: Sequence[int]) -> list[Bucket]:
        """What messages about these tensors are made of; tensors are known by their places among them."""
        at = {k: place for place, k in enumerate(tensors)}
        return [self._bucket([at[k] for k in run], tensors) for run in self._alike(tensors)]

    def _bucket(self, places: list[int], tensors: Sequence[int]) -> Bucket:
        offset, stretches, counts = 0, [], []
        for ranges in self.ranges:
            own, start = [], offset
            for place in places:
                r = ranges[tensors[place]]
                if r.begin < r.end:
                    own.append(Stretch(place, r.begin, r.end, offset))
                    offset += r.end - r.begin
            stretches.append(own)
            counts.append(offset - start)
        return Bucket((places[0], places[-1] + 1), stretches, counts)


def balanced(costs: list[int], loads: list[int]) -> list[int]:
    """Of each tensor the rank that it goes to: the most expensive first, to the one that has the least to do.

    loads: what each has to do, to which this is added
    """
    owners = [0] * len(costs)
    for k in sorted(range(len(costs)), key=lambda k: -costs[k]):
        owners[k] = rank = loads.index(min(loads))
        loads[rank] += costs[k]
    return owners


def part_of(array: Array, r: Range, by_elements: bool) -> Array:
    """What a rank has of an array, as a view: elements in a row, or all of it or nothing."""
    if by_elements:
        return array.reshape(-1)[r.begin : r.end]
    return array if (r.begin, r.end) == (0, r.n) else array.reshape(-1)[:0].reshape((0, *array.shape[1:]))
