"""The sums of gradients whose parts are on several ranks, to the bits of sums over whole gradients.

Each rank sums the blocks that are its own, all ranks tell each other in one message what they found, and each folds all
of it (fastupdate/sharded/ranges.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from fastupdate.arrays import tree
from fastupdate.arrays.memory import DTYPES, STORAGE, address
from fastupdate.arrays.place import Place
from fastupdate.engines import records
from fastupdate.engines.records import BLOCK, Records, Tables
from fastupdate.sharded.ranges import Folding, Range
from fastupdate.step.gradients import NoGradientError
from fastupdate.step.stepper import Stepper
from fastupdate.torch.shards import is_dtensor, part_of

FIELDS = ("gg", "nonfinite", "zeros")  # of the sums of a gradient


class Reader:
    """Sums stretches of numbers, each as a tensor of its own.

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

    def read(self) -> NDArray[np.float64]:
        """What each stretch comes to: FIELDS."""
        if len(self.rows):
            self._engine.gradient_sums(1.0)
            self._engine.fold(self._totals)
        return np.stack([self._totals[field].astype(np.float64) for field in FIELDS], axis=-1)


class Piece(NamedTuple):
    """Elements that were handed over: of which tensor, from where on, and where they are in all that was gathered."""

    tensor: int
    begin: int
    places: range


class Described(NamedTuple):
    """What a rank has: elements of each tensor, and what has to be the same on all ranks, by the names of arguments."""

    rule: str
    parts: list[int]
    same: dict[str, Any]


def _described(stepper: Stepper, params: list[Any], tensors: list[int]) -> Described:
    same: dict[str, Any] = {"rule": stepper.rule.name, "params": f"{len(params)} that move"}
    for option in ("clip_norm", "clip_tensor_norm", "nonfinite", "outliers", "max_skips"):
        value = getattr(stepper.settings, option)
        same[option] = "a schedule" if callable(value) else repr(value)
    for k in tensors:
        item, p = stepper.items[k], params[k]
        words = f"one of shape {tuple(p.shape)}, {p.dtype}, placements {p.placements}, after {item.t} steps"
        same[f"{item.place.argument} ({k})"] = words
    return Described(stepper.rule.name, [part_of(params[k]).numel() for k in tensors], same)


def _check_alike(first: Described, other: Described, rank: int) -> None:
    for argument in {**first.same, **other.same}:
        expected, received = first.same.get(argument, "none"), other.same.get(argument, "none")
        if expected != received:
            place = Place(first.rule, argument)
            place.fail(ValueError, f"the same on all ranks, {expected} as on the first", f"{received} on rank {rank}")


class Exchange:
    """What the ranks of one group tell each other of the tensors that they share.

    Of each rank the message holds which parameter has no gradient, the first of them or −1, and tensor by tensor the
    sums of its nodes and the elements at its ends; all as float64.

    tensors   which ones
    length    of the longest message
    """

    def __init__(self, group: Any, tensors: list[int], sizes: list[int], described: Described) -> None:
        """sizes: elements of all tensors, whole."""
        self.group, self.tensors = group, tensors
        self._rank, self._ranks = distributed.get_rank(group), distributed.get_world_size(group)
        all_ranks: list[Any] = [None] * self._ranks
        distributed.all_gather_object(all_ranks, described, group=group)
        for rank, other in enumerate(all_ranks):
            _check_alike(all_ranks[0], other, rank)
        lengths = [other.parts for other in all_ranks]
        ends = np.cumsum(np.array(lengths, np.int64).reshape(self._ranks, -1), axis=0)
        self._ranges = [
            [Range(int(end) - n, int(end), sizes[k]) for k, n, end in zip(tensors, of_rank, of_ends, strict=True)]
            for of_rank, of_ends in zip(lengths, ends, strict=True)
        ]
        self.length = max(self._size(ranges) for ranges in self._ranges)
        self._sent = torch.zeros(self.length, dtype=torch.float64)
        self._told = torch.zeros(self._ranks, self.length, dtype=torch.float64)

    @staticmethod
    def _size(ranges: list[Range]) -> int:
        told = (len(FIELDS) * len([*r.nodes()]) + sum(end - begin for begin, end in r.ends()) for r in ranges)
        return 1 + sum(told)

    def own(self) -> list[Range]:
        """The ranges of the tensors that are here."""
        return self._ranges[self._rank]

    def layout(self) -> tuple[list[tuple[int, int, int, int]], list[Piece]]:
        """In all that is gathered: nodes (tensor, first element, level, place), and elements."""
        nodes, pieces = [], []
        for rank, ranges in enumerate(self._ranges):
            place = rank * self.length + 1
            for k, r in zip(self.tensors, ranges, strict=True):
                for node in r.nodes():
                    nodes.append((k, node.begin, node.level, place))
                    place += len(FIELDS)
                for begin, end in r.ends():
                    pieces.append(Piece(k, begin, range(place, place + end - begin)))
                    place += end - begin
        return nodes, pieces

    def gather(self, sums: NDArray[np.float64], gradients: list[Any], missing: int) -> NDArray[np.float64]:
        """Tells the others of the nodes and elements here; what all have told.

        sums: of the nodes here, in order. gradients: what is here of all tensors, flat.
        """
        place, row, sent = 1, 0, self._sent.numpy()
        sent[0] = missing
        for k, r in zip(self.tensors, self.own(), strict=True):
            for _ in r.nodes():
                sent[place : place + len(FIELDS)] = sums[row]
                place, row = place + len(FIELDS), row + 1
            for begin, end in r.ends():
                self._sent[place : place + end - begin] = gradients[k][begin - r.begin : end - r.begin]
                place += end - begin
        distributed.all_gather([*self._told], self._sent, group=self.group)
        return self._told.numpy().reshape(-1)

    def missing(self) -> list[int]:
        """Which parameter has no gradient on each rank, as told last; −1: none."""
        return [int(k) for k in self._told[:, 0]]


class MeshSums:
    """The sums of the gradients of some parameters, in the order of the steps.

    exchanges   what is told by each group of ranks
    """

    def __init__(self, stepper: Stepper, params: list[Any]) -> None:
        self._params = params
        self._places = [Place(item.place.rule, tree.shown("grads", item.path)) for item in stepper.items]
        sizes = [p.numel() for p in params]
        groups: dict[str, tuple[Any, list[int]]] = {}
        for k, p in enumerate(params):
            group = _group_of(p)
            if group is not None:
                groups.setdefault(group.group_name, (group, []))[1].append(k)
        self.exchanges = [
            Exchange(group, tensors, sizes, _described(stepper, params, tensors)) for group, tensors in groups.values()
        ]
        shared = {k: r for exchange in self.exchanges for k, r in zip(exchange.tensors, exchange.own(), strict=True)}
        ranges = [shared.get(k, Range(0, n, n)) for k, n in enumerate(sizes)]
        order = [*(k for exchange in self.exchanges for k in exchange.tensors), *(set(range(len(params))) - {*shared})]
        nodes = [(k, node) for k in order for node in ranges[k].nodes()]
        self._owner = np.array([k for k, _ in nodes], np.int64)
        self._offset = np.array([node.begin - ranges[k].begin for k, node in nodes], np.int64)
        codes = [DTYPES[item.array.dtype] for item in stepper.plan.items]
        self._nodes = Reader(stepper, [node.end - node.begin for _, node in nodes], [codes[k] for k, _ in nodes])
        alone = [(k, node.begin, node.level) for k, node in nodes if k not in shared]
        self._lay_out(stepper, alone, len(sizes))

    def _lay_out(self, stepper: Stepper, alone: list[tuple[int, int, int]], tensors: int) -> None:
        """Works out from where to where everything goes that was gathered, and how it folds."""
        places: list[tuple[int, int, int, int]] = []  # tensor, first element, level, place among the sums
        self._gathered: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []  # of each exchange: nodes, elements
        cut: dict[tuple[int, int], int] = {}  # blocks that several ranges have: how many elements
        for exchange in self.exchanges:
            nodes, pieces = exchange.layout()
            pieces.sort(key=itemgetter(0, 1))
            for piece in pieces:
                block = piece.tensor, piece.begin // BLOCK * BLOCK
                cut[block] = cut.get(block, 0) + len(piece.places)
            first = len(places)
            places += [(k, begin, level, first + row) for row, (k, begin, level, _) in enumerate(nodes)]
            elements = [place for piece in pieces for place in piece.places]
            self._gathered.append((np.array([node[-1] for node in nodes], np.int64), np.array(elements, np.int64)))
        places += [(*node, len(places) + row) for row, node in enumerate(alone)]
        places += [(*block, 0, len(places) + row) for row, block in enumerate(cut)]
        places.sort()
        of_tensor: list[list[tuple[int, int]]] = [[] for _ in range(tensors)]
        for k, _, level, place in places:
            of_tensor[k].append((place, level))
        self._folding = Folding(of_tensor, len(places))
        self._filled = np.array([k for k, total in enumerate(self._folding.totals) if total >= 0], np.int64)
        self._sums = np.zeros((self._folding.size, len(FIELDS)))
        self._elements = np.zeros(sum(cut.values()))
        self._cut = Reader(stepper, [*cut.values()], [DTYPES[np.dtype(np.float64)]] * len(cut))
        begins = np.cumsum([*cut.values()], dtype=np.int64) - [*cut.values()]
        self._cut.rows["g"] = address(self._elements) + 8 * begins
        self._cut.rows["g_dtype"] = self._cut.rows["dtype"]

    @property
    def message_bytes(self) -> int:
        """What each rank tells in a step."""
        return sum(8 * exchange.length for exchange in self.exchanges)

    def totals(self) -> Records:
        """Σg² and the counts of each gradient as it is now, all ranks' parts together."""
        missing = next((k for k, p in enumerate(self._params) if p.grad is None), -1)
        gradients = [*self._gradients()]
        bases, widths = (np.array(each, np.uint64) for each in zip(*map(_memory, gradients), strict=True))
        self._nodes.rows["g"] = bases[self._owner] + self._offset.astype(np.uint64) * widths[self._owner]
        self._nodes.rows["g_dtype"] = np.array([_code(g) for g in gradients], np.uint8)[self._owner]
        found = self._nodes.read()
        place = row = element = 0
        for exchange, (nodes, elements) in zip(self.exchanges, self._gathered, strict=True):
            here = sum(len([*r.nodes()]) for r in exchange.own())
            told = exchange.gather(found[row : row + here], gradients, missing)
            self._sums[place : place + len(nodes)] = told[nodes[:, None] + np.arange(len(FIELDS))]
            self._elements[element : element + len(elements)] = told[elements]
            place, row, element = place + len(nodes), row + here, element + len(elements)
        self._check_missing(missing)
        self._sums[place : place + len(found) - row] = found[row:]
        place += len(found) - row
        self._sums[place : place + len(self._cut.rows)] = self._cut.read()
        self._folding.fold(self._sums)
        totals = np.zeros(len(self._params), records.SUMS)
        for column, field in enumerate(FIELDS):
            totals[field][self._filled] = self._sums[np.array(self._folding.totals)[self._filled], column]
        return totals

    def _gradients(self) -> Iterator[Any]:
        """What is here of each gradient, or all of it where no range of it is; flat, in C order."""
        for p in self._params:
            grad: Any = torch.zeros_like(p) if p.grad is None else p.grad
            scattered = is_dtensor(p) and _group_of(p) is None
            yield (grad.full_tensor() if scattered else part_of(grad)).detach().contiguous().view(-1)

    def _check_missing(self, here: int) -> None:
        """Raises on all ranks if one has no gradient of a parameter; if none has one, the step is taken without it."""
        for exchange in self.exchanges:
            told = exchange.missing()
            if len({*told}) > 1:
                received = f"None on rank {told.index(max(told))} of those that share it"
                self._places[max(told)].fail(ValueError, "a gradient on every rank, or on none", received)
        if here >= 0:
            self._places[here].fail(NoGradientError, "a gradient", "None")


def _group_of(p: Any) -> Any:
    """The ranks that share a parameter by ranges of its elements; None if each has all of it, or no range of it."""
    if not is_dtensor(p):
        return None
    cut = [axis for axis, placement in enumerate(p.placements) if not placement.is_replicate()]
    by_ranges = len(cut) == 1 and p.placements[cut[0]].is_shard(0)
    return p.device_mesh.get_group(cut[0]) if by_ranges else None


def _memory(tensor: Any) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.element_size()


def _code(tensor: Any) -> int:
    return STORAGE[str(tensor.dtype).removeprefix("torch.")].code
