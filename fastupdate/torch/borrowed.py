"""Cells that several ranks have parts of, whole, in memory of the rank that has their beginning."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastupdate.arrays.memory import Array, address
from fastupdate.engines import records
from fastupdate.engines.records import Records
from fastupdate.sharded.cells import Cell, Piece
from fastupdate.sharded.together import Arrays, shifted
from fastupdate.torch.messages import Peers

UNITS = "unit_scale"  # an array of one number for each unit that is clipped; others have one for each element


class Borrowed:
    """The cells that this rank owns and others have parts of: copies of all arrays, for sums alone.

    cells     they
    tensors   TENSOR, as of the whole tensors: a row for each cell
    kept      their copies
    told      what each rank is about to do (alike.py), if this is a step's first message, which it opens
    """

    def __init__(
        self, peers: Peers, cells: list[Cell], arrays: dict[int, Arrays], tensors: Records, opens: bool
    ) -> None:
        """cells: of all ranks. arrays: what this rank has of each tensor. tensors: records of whole ones."""
        self._peers, rank, ranks = peers, peers.rank, len(peers.ranks)
        self._units: list[int] = tensors["unit_length"].tolist()
        self._none, self.opens = not (cells or opens), opens
        self._standing, self.told = np.zeros(1), np.zeros(ranks)
        self.cells = [cell for cell in cells if cell.owner == rank]
        self.tensors = tensors[[cell.tensor for cell in self.cells]]
        self.kept: list[Arrays] = [self._room(k, arrays[cell.tensor]) for k, cell in enumerate(self.cells)]
        self._own: list[tuple[int, str | int, Any, Array]] = []  # tensor, array, what is here of it, where it goes
        self._out: list[tuple[int, str | int, Any] | None] = []  # None: what this rank is about to do
        self._in: list[Array] = []
        self._to, self._from = [0] * ranks, [0] * ranks
        for owner in range(ranks):
            if opens:
                self._out.append(None)
                self._to[owner] += self._standing.nbytes
            for each in (cell for cell in cells if cell.owner == owner != rank):
                for piece in (piece for piece in each.pieces if piece.rank == rank):
                    for name, array in arrays[each.tensor].items():
                        here, _ = self._places(each, piece, name)
                        self._out.append((each.tensor, name, here))
                        self._to[owner] += array[here].nbytes
        for holder in range(ranks):
            if opens:
                self._in.append(self.told[holder : holder + 1])
                self._from[holder] += self._standing.nbytes
            for k, cell in enumerate(self.cells):
                for piece in (piece for piece in cell.pieces if piece.rank == holder):
                    for name, array in self.kept[k].items():
                        here, there = self._places(cell, piece, name)
                        if holder == rank:
                            self._own.append((cell.tensor, name, here, array[there]))
                        else:
                            self._in.append(array[there])
                            self._from[holder] += array[there].nbytes
        self._arrays = arrays
        self._sent, self._got = (
            torch.zeros(sum(sizes), dtype=torch.uint8, device="cpu") for sizes in (self._to, self._from)
        )

    @property
    def bytes(self) -> int:
        """What this rank hands over in a step."""
        return sum(self._to)

    def _places(self, cell: Cell, piece: Piece, name: str | int) -> tuple[Any, Any]:
        """Where a piece of a cell is in what is here of an array, and in the cell's."""
        if name != UNITS:
            return piece.here, piece.there
        if cell.grid is None:
            return ..., piece.there[:1]
        begin, end = cell.begin + piece.there.start, cell.begin + piece.there.stop
        return self._span(cell, begin, end, begin - piece.here.start), self._span(cell, begin, end, cell.begin)

    def _span(self, cell: Cell, begin: int, end: int, origin: int) -> slice:
        """The units that these elements are in, counted from the one that element `origin` is in."""
        length = self._units[cell.tensor]
        return slice(begin // length - origin // length, -(-end // length) - origin // length)

    def _room(self, k: int, arrays: Arrays) -> Arrays:
        """Memory for a cell; its record points there, as if the whole tensor were."""
        cell, row, made = self.cells[k], self.tensors[k : k + 1], {}
        row["slot"][:, records.ACCUMULATOR] = row["slot"][:, records.SHADOW] = 0
        for name, array in arrays.items():
            units = self._span(cell, cell.begin, cell.end, 0)
            made[name] = np.zeros(units.stop - units.start if name == UNITS else cell.shape, array.dtype)
            place = row["slot"][:, name : name + 1] if isinstance(name, int) else row[name].reshape(1, 1)
            place[...] = shifted(address(made[name]), (units.start if name == UNITS else cell.begin) * array.itemsize)
        row["g_dtype"] = row["dtype"]
        return made

    def gather(self, gradient: Callable[[int, Any], Array], standing: float) -> None:
        """Copies all arrays as they are now.

        gradient(tensor, elements): what is here of a gradient, in that type. standing: what this rank is about to do
        """
        if self._none:
            return

        def here(tensor: int, name: str | int, elements: Any) -> Array:
            return gradient(tensor, elements) if name == "g" else self._arrays[tensor][name][elements]

        self._standing[0] = standing
        for tensor, name, elements, to in self._own:
            to[...] = here(tensor, name, elements)
        fill(self._sent.numpy(), (self._standing if which is None else here(*which) for which in self._out))
        self._peers.exchange(self._got, self._sent, self._from, self._to)
        take_apart(self._got.numpy(), self._in)


def fill(buffer: NDArray[np.uint8], arrays: Iterable[Array]) -> None:
    """Writes arrays one after the other."""
    at = 0
    for array in arrays:
        buffer[at : at + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        at += array.nbytes


def take_apart(buffer: NDArray[np.uint8], arrays: Iterable[Array]) -> None:
    """Reads such as they were written."""
    at = 0
    for array in arrays:
        array[...] = buffer[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
        at += array.nbytes
