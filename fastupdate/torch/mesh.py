"""The sums of gradients whose parts are on several ranks, to the bits of sums over whole gradients.

Each rank sums the blocks that are its own, all ranks tell each other what they found (exchange.py), and each folds all
of it (fastupdate/sharded/ranges.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastupdate.arrays.memory import DTYPES, STORAGE
from fastupdate.engines.records import Records
from fastupdate.sharded.ranges import Range
from fastupdate.sharded.reader import WORDS, Reader, Summand, Totals
from fastupdate.sharded.telling import Group
from fastupdate.step.stepper import Stepper
from fastupdate.torch.alike import ALIKE, Roll
from fastupdate.torch.exchange import Exchange
from fastupdate.torch.shards import part_of
from fastupdate.torch.wholes import Wholes

NONE = torch.zeros(0, device="cpu")


class MeshSums:
    """The sums of the gradients of some parameters, in the order of the steps.

    exchanges   what is told by each group of ranks
    opened      whether the others have been told what this rank is about to do
    """

    def __init__(
        self, stepper: Stepper, params: list[Any], groups: list[Group], roll: Roll, which: Iterable[int] | None = None
    ) -> None:
        """which: the places of those that are summed; None: of all."""
        self._params, self._roll, self.opened = params, roll, False
        chosen = {*range(len(params))} if which is None else {*which}
        groups = [group.of(chosen) for group in groups]
        self._wholes = [Wholes(stepper, params, group) for group in groups if group.boxes]
        self._in_boxes = {k for group in groups for k in group.boxes}
        sizes = [p.numel() if k in chosen else 0 for k, p in enumerate(params)]
        self.exchanges = [Exchange(stepper, group) for group in groups]
        shared = {k: r for exchange in self.exchanges for k, r in exchange.own.items()}
        ranges = [shared.get(k, Range(0, n, n)) for k, n in enumerate(sizes)]
        order = [
            *(k for exchange in self.exchanges for k in exchange.tensors),
            *sorted({*range(len(params))} - {*shared}),
        ]
        nodes = [(k, node) for k in order for node in ranges[k].nodes(WORDS.most)]
        self._owner = np.array([k for k, _ in nodes], np.int64)
        self._offset = np.array([node.begin - ranges[k].begin for k, node in nodes], np.int64)
        codes = [DTYPES[item.array.dtype] for item in stepper.plan.items]
        self._nodes = Reader(stepper, [node.end - node.begin for _, node in nodes], [codes[k] for k, _ in nodes])
        alone = [(k, node.begin, node.level) for k, node in nodes if k not in shared]
        self._lay_out(alone, len(sizes))

    def _lay_out(self, alone: list[tuple[int, int, int]], tensors: int) -> None:
        """Works out where each sum goes, and how they fold."""
        summands: list[Summand] = []
        # Of each exchange: how many nodes are summed here, and which rows of what is gathered are sums of nodes.
        self._gathered: list[tuple[int, NDArray[np.int64]]] = []
        for exchange in self.exchanges:
            first = len(summands)
            summands += [Summand(*node[:3], first + k) for k, node in enumerate(exchange.nodes)]
            here = sum(len([*r.nodes(WORDS.most)]) for r in exchange.own.values())
            self._gathered.append((here, np.array([row for *_, row in exchange.nodes], np.int64)))
        summands += [Summand(*node, len(summands) + k) for k, node in enumerate(alone)]
        self._totals = Totals(summands, tensors, len(summands))

    def totals(self, unit: float = 1.0) -> Records:
        """Σg² and the counts of each gradient as it is now, in units of `unit`, all ranks' parts together."""
        return self._summed([p.grad for p in self._params], unit, ALIKE)

    def of(self, tensors: list[Any], unit: float) -> Records:
        """The same of other tensors, shared as the parameters are."""
        return self._summed(tensors, unit, ALIKE)

    def part(self, standing: float) -> None:
        """Tells that this rank is not to take the step that the others may be taking; ValueError unless none is."""
        self._summed([torch.zeros_like(p) for p in self._params], 1.0, standing)

    def _summed(self, grads: list[Any], unit: float, standing: float) -> Records:
        self.opened = True
        gradients = [*self._gradients(grads)]
        bases, widths = (np.array(each, np.uint64) for each in zip(*map(_memory, gradients), strict=True))
        self._nodes.rows["g"] = bases[self._owner] + self._offset.astype(np.uint64) * widths[self._owner]
        self._nodes.rows["g_dtype"] = np.array([_code(g) for g in gradients], np.uint8)[self._owner]
        found = self._nodes.read(1 / unit)
        sums, place, row = self._totals.sums, 0, 0
        for exchange, (here, rows) in zip(self.exchanges, self._gathered, strict=True):
            told = exchange.gather(found[row : row + here], gradients, standing, 1 / unit)
            sums[place : place + len(rows)] = told[rows]
            place, row = place + len(rows), row + here
        for exchange in self.exchanges:
            self._roll.check(exchange.standings())
        sums[place : place + len(found) - row] = found[row:]
        return self._totals.folded()

    def _gradients(self, grads: list[Any]) -> Iterator[Any]:
        """What is here of each gradient, or is lent; flat, in C order."""
        lent = {k: torch.from_numpy(whole) for wholes in self._wholes for k, whole in wholes.of(grads).items()}
        for k, grad in enumerate(grads):
            here = lent.get(k, NONE) if k in self._in_boxes else part_of(grad)
            yield here.detach().contiguous().view(-1)


def _memory(tensor: Any) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.element_size()


def _code(tensor: Any) -> int:
    return STORAGE[str(tensor.dtype).removeprefix("torch.")].code
