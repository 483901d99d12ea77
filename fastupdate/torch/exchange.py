"""What ranks tell each other of the tensors that they share, so that all know the sums of whole gradients."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fastupdate.arrays.memory import DTYPES, address
from fastupdate.engines.records import BLOCK, counted_before
from fastupdate.rules.extent import Shape
from fastupdate.sharded.boxes import Box, is_range
from fastupdate.sharded.division import balanced
from fastupdate.sharded.ranges import Range
from fastupdate.sharded.reader import WORDS, Reader
from fastupdate.sharded.telling import Group
from fastupdate.step.stepper import Stepper
from fastupdate.torch.messages import Peers
from fastupdate.torch.shards import boxes_of, is_among, is_split, part_of, peers_of


def meet(stepper: Stepper, params: list[Any], everything: list[Any]) -> list[Group]:
    """The ranks that share parameters, and what each of them has.

    params: those that move. everything: all of the optimizer
    """
    found = []
    places = {id(p): k for k, p in enumerate(params)}
    for k, p in enumerate(params):
        if is_split(p) and not is_among(p):
            expected = "a DTensor that this rank shares, where a step depends on more than what is here"
            stepper.items[k].place.fail(ValueError, expected, f"one on {p.device_mesh}")
    for peers, shared in peers_of(everything):
        tensors = [places[id(p)] for p in shared if id(p) in places]
        here = [params[k] for k in tensors]
        dense = [part_of(p).is_contiguous() for p in here]
        all_ranks = peers.gather_objects([*zip(boxes_of(here), dense, strict=True)])
        for k, of_ranks in zip(tensors, zip(*all_ranks, strict=True), strict=True):
            if any(box is None for box, _ in of_ranks):
                expected = "of each rank, elements that follow each other along each axis"
                stepper.items[k].place.fail(TypeError, expected, f"a DTensor of placements {params[k].placements}")
        found.append(_group(peers, tensors, [p.shape for p in here], all_ranks))
    return found


def _group(peers: Peers, tensors: list[int], shapes: list[Shape], of_ranks: list[Any]) -> Group:
    """What ranks share by ranges; and in boxes: the largest tensors first, each lent to who is lent least."""
    ranges: list[list[Range]] = [[] for _ in of_ranks]
    boxes: dict[int, list[Box]] = {}
    found = [*zip(*of_ranks, strict=True)]  # of each tensor
    in_boxes = [
        not all(dense and is_range(box, s) for box, dense in each) for s, each in zip(shapes, found, strict=True)
    ]
    owners = balanced([prod(s) * each for s, each in zip(shapes, in_boxes, strict=True)], [0] * len(of_ranks))
    for k, shape, each, is_boxed, owner in zip(tensors, shapes, found, in_boxes, owners, strict=True):
        row = prod(shape[1:])
        for rank, (box, _) in enumerate(each):
            begin, end = (0, row * shape[0] * (rank == owner)) if is_boxed else (row * box[0].start, row * box[0].stop)
            ranges[rank].append(Range(begin, end, prod(shape)))
        if is_boxed:
            boxes[k] = [box for box, _ in each]
    return Group(peers, peers.rank, tensors, ranges, boxes)


class Fragment(NamedTuple):
    """The elements begin … end − 1 of a tensor, in a block that reaches into other ranges too."""

    tensor: int
    begin: int
    end: int
    rank: int

    @property
    def block(self) -> tuple[int, int]:
        """The tensor, and the first element of the block."""
        return self.tensor, self.begin // BLOCK * BLOCK


class CutBlocks:
    """The blocks that ranks of a group have in common: each is summed by the rank that has its first element.

    owned   by each rank: tensors and first elements
    """

    def __init__(self, stepper: Stepper, peers: Peers, fragments: list[Fragment], ranks: int) -> None:
        """fragments: all of all ranks."""
        self._peers, rank = peers, peers.rank
        fragments = sorted(fragments)
        owner: dict[tuple[int, int], int] = {}
        for fragment in fragments:
            owner.setdefault(fragment.block, fragment.rank)
        self.owned = [[block for block, its in owner.items() if its == each] for each in range(ranks)]
        self._none = not fragments
        self._sent = sorted((p for p in fragments if p.rank == rank), key=lambda p: (owner[p.block], p))
        taken = [p for p in fragments if owner[p.block] == rank]
        self._to = [sum(p.end - p.begin for p in self._sent if owner[p.block] == each) for each in range(ranks)]
        self._from = [sum(p.end - p.begin for p in taken if p.rank == each) for each in range(ranks)]
        self._out, self._in = (
            torch.zeros(sum(counts), dtype=torch.float64, device="cpu") for counts in (self._to, self._from)
        )
        starts, at = {}, 0
        for p in sorted(taken, key=lambda p: (p.rank, p)):
            starts[p], at = at, at + p.end - p.begin
        found = [np.arange(starts[p], starts[p] + p.end - p.begin) for p in taken]
        self._order = np.concatenate([np.zeros(0, np.int64), *found])
        self._elements = np.zeros(len(self._order))
        lengths = dict.fromkeys(self.owned[rank], 0)
        for p in taken:
            lengths[p.block] += p.end - p.begin
        counts = np.array([*lengths.values()], np.int64)
        self._reader = Reader(stepper, counts.tolist(), [DTYPES[np.dtype(np.float64)]] * len(counts))
        self._reader.rows["g"] = address(self._elements) + 8 * counted_before(counts)
        self._reader.rows["g_dtype"] = self._reader.rows["dtype"]

    @property
    def bytes(self) -> int:
        """What this rank hands to others, and to itself, in a step."""
        return 8 * len(self._out)

    def sums(self, gradients: list[Any], begins: dict[int, int], scale: float) -> NDArray[np.float64]:
        """Of the blocks that this rank owns, after all have handed over their elements.

        gradients: what is here of all tensors, flat. begins: of these ranges.
        """
        if self._none:
            return self._reader.read(scale)
        at = 0
        for p in self._sent:
            begin = begins[p.tensor]
            self._out[at : at + p.end - p.begin] = gradients[p.tensor][p.begin - begin : p.end - begin]
            at += p.end - p.begin
        self._peers.exchange(self._in, self._out, self._from, self._to)
        self._elements[:] = self._in.numpy()[self._order]
        return self._reader.read(scale)


class Exchange:
    """What the ranks of one group tell each other.

    Of each rank the message holds what it is about to do (alike.py), then the sums of its nodes and of the cut blocks
    that it owns; all as float64.

    tensors   which ones the group shares
    nodes     of all ranks: tensor, first element, level, and row in what `gather` returns
    """

    def __init__(self, stepper: Stepper, group: Group) -> None:
        self._peers, self.tensors, self._ranges = group.handle, group.tensors, group.ranges
        self.own, ranks = group.own(), len(group.ranges)  # the ranges of the tensors that are here
        self._cut = CutBlocks(stepper, self._peers, [*self._fragments()], ranks)
        found = [[*self._nodes(rank)] for rank in range(ranks)]
        self._rows = max(map(len, found))
        self.nodes = [
            (*node, rank * self._rows + row) for rank, own in enumerate(found) for row, node in enumerate(own)
        ]
        self._sent = np.zeros(1 + self._rows * WORDS.size)
        self._told = np.zeros((ranks, len(self._sent)))

    def _fragments(self) -> Iterator[Fragment]:
        for rank, ranges in enumerate(self._ranges):
            for k, r in zip(self.tensors, ranges, strict=True):
                yield from (Fragment(k, begin, end, rank) for begin, end in r.ends())

    def _nodes(self, rank: int) -> Iterator[tuple[int, int, int]]:
        """What a rank tells the sums of, in order: tensor, first element, level."""
        for k, r in zip(self.tensors, self._ranges[rank], strict=True):
            yield from ((k, node.begin, node.level) for node in r.nodes(WORDS.most))
        yield from ((k, begin, 0) for k, begin in self._cut.owned[rank])

    @property
    def bytes(self) -> tuple[int, int]:
        """What this rank hands over in a step: elements of cut blocks; and the message that all ranks get."""
        return self._cut.bytes, 8 * len(self._sent)

    def gather(
        self, sums: NDArray[np.float64], gradients: list[Any], standing: float, scale: float
    ) -> NDArray[np.float64]:
        """Tells the others the sums here; all sums that were told.

        sums: of the nodes within the ranges here, in order. gradients: what is here of all tensors, flat. standing:
        what this rank is about to do. scale: what gradients are multiplied by.
        """
        begins = {k: r.begin for k, r in self.own.items()}
        own = WORDS.packed(np.concatenate([sums, self._cut.sums(gradients, begins, scale)]))
        self._sent[0], self._sent[1 : 1 + own.size] = standing, own.reshape(-1)
        self._peers.gather(self._sent, self._told)
        return WORDS.taken_apart(self._told[:, 1:].reshape(-1, WORDS.size))

    def standings(self) -> list[float]:
        """What each rank is about to do, as told last."""
        return [float(each) for each in self._told[:, 0]]
