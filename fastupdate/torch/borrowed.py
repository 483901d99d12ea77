"""Cells that several ranks have parts of, whole, in memory of the rank that has their beginning."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from fastupdate.arrays.memory import Array, address
from fastupdate.engines import records
from fastupdate.engines.records import Records
from fastupdate.sharded.cells import Cell
from fastupdate.sharded.ranges import Range
from fastupdate.sharded.together import Arrays, shifted

UNITS = (
    "unit_scale"  # the array of which there is one number for each unit that is clipped; of the others, each element
)


class Borrowed:
    """The cells that this rank owns and others have parts of: copies of all arrays, for sums alone.

    tensors, parts   TENSOR, as of the whole tensors; and which elements of which row are a cell
    told             what each rank is about to do (alike.py), if this is a step's first message, which it opens
    """

    def __init__(
        self,
        group: Any,
        cells: list[Cell],
        ranges: dict[int, Range],
        arrays: dict[int, Arrays],
        tensors: Records,
        opens: bool,
    ) -> None:
        """ranges, arrays: what this rank has of each tensor. tensors: records of whole ones."""
        self._group, rank, ranks = group, distributed.get_rank(group), distributed.get_world_size(group)
        self._units: list[int] = tensors["unit_length"].tolist()
        self._none, self.opens = not (cells or opens), opens
        self._standing, self.told = np.zeros(1), np.zeros(ranks)
        self.cells = [cell for cell in cells if cell.owner == rank]
        self.parts = np.array([(k, c.begin, c.end) for k, c in enumerate(self.cells)], np.int64).reshape(-1, 3)
        self.tensors = tensors[[cell.tensor for cell in self.cells]]
        kept: list[Arrays] = [self._room(k, arrays[cell.tensor]) for k, cell in enumerate(self.cells)]
        self._own: list[tuple[int, str | int, slice, Array]] = []  # tensor, array, what is here of it, where it goes
        self._out: list[tuple[int, str | int, slice] | None] = []  # None: what this rank is about to do
        self._in: list[Array] = []
        self._to, self._from = [0] * ranks, [0] * ranks
        for owner in range(ranks):
            if opens:
                self._out.append(None)
                self._to[owner] += self._standing.nbytes
            for each in (cell for cell in cells if cell.owner == owner != rank):
                for begin, end in (piece[1:] for piece in each.pieces if piece[0] == rank):
                    for name, array in arrays[each.tensor].items():
                        here = self._span(each.tensor, name, begin, end, ranges[each.tensor].begin)
                        self._out.append((each.tensor, name, here))
                        self._to[owner] += array[here].nbytes
        for holder in range(ranks):
            if opens:
                self._in.append(self.told[holder : holder + 1])
                self._from[holder] += self._standing.nbytes
            for k, cell in enumerate(self.cells):
                for _, begin, end in (piece for piece in cell.pieces if piece[0] == holder):
                    for name, array in kept[k].items():
                        there = array[self._span(cell.tensor, name, begin, end, cell.begin)]
                        if holder == rank:
                            here = self._span(cell.tensor, name, begin, end, ranges[cell.tensor].begin)
                            self._own.append((cell.tensor, name, here, there))
                        else:
                            self._in.append(there)
                            self._from[holder] += there.nbytes
        self._arrays, self._kept = arrays, kept
        self._sent, self._got = (torch.zeros(sum(sizes), dtype=torch.uint8) for sizes in (self._to, self._from))

    @property
    def bytes(self) -> int:
        """What this rank hands over in a step."""
        return sum(self._to)

    def _span(self, tensor: int, name: str | int, begin: int, end: int, origin: int) -> slice:
        """Where what an array has of these elements is, if it starts with what it has of element `origin`."""
        length = self._units[tensor] if name == UNITS else 1
        return slice(begin // length - origin // length, -(-end // length) - origin // length)

    def _room(self, k: int, arrays: Arrays) -> Arrays:
        """Memory for a cell; its record points there, as if the whole tensor were."""
        cell, row, made = self.cells[k], self.tensors[k : k + 1], {}
        row["slot"][:, records.ACCUMULATOR] = row["slot"][:, records.SHADOW] = 0
        for name, array in arrays.items():
            there = self._span(cell.tensor, name, cell.begin, cell.end, 0)
            made[name] = np.zeros(there.stop - there.start, array.dtype)
            place = row["slot"][:, name : name + 1] if isinstance(name, int) else row[name].reshape(1, 1)
            place[...] = shifted(address(made[name]), there.start * array.itemsize)
        row["g_dtype"] = row["dtype"]
        return made

    def gather(self, gradient: Callable[[int, slice], Array], standing: float) -> None:
        """Copies all arrays as they are now.

        gradient(tensor, elements): what is here of a gradient, in that type. standing: what this rank is about to do
        """
        if self._none:
            return

        def here(tensor: int, name: str | int, elements: slice) -> Array:
            return gradient(tensor, elements) if name == "g" else self._arrays[tensor][name][elements]

        self._standing[0] = standing
        for tensor, name, elements, to in self._own:
            to[...] = here(tensor, name, elements)
        _fill(self._sent.numpy(), (self._standing if which is None else here(*which) for which in self._out))
        distributed.all_to_all_single(self._got, self._sent, self._from, self._to, group=self._group)
        at, got = 0, self._got.numpy()
        for to in self._in:
            to.view(np.uint8)[...] = got[at : at + to.nbytes]
            at += to.nbytes


def _fill(buffer: NDArray[np.uint8], arrays: Iterable[Array]) -> None:
    at = 0
    for array in arrays:
        buffer[at : at + array.nbytes] = np.ascontiguousarray(array).view(np.uint8)
        at += array.nbytes
