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
from fastupdate.rules.extent import Shape
from fastupdate.sharded.boxes import ranges_in
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
                        here = self._piece(each, piece, name).here
                        self._out.append((each.tensor, name, here))
                        self._to[owner] += array[here].nbytes
        for holder in range(ranks):
            if opens:
                self._in.append(self.told[holder : holder + 1])
                self._from[holder] += self._standing.nbytes
            for k, cell in enumerate(self.cells):
                for piece in (piece for piece in cell.pieces if piece.rank == holder):
                    for name, array in self.kept[k].items():
                        _, here, there = self._piece(cell, piece, name)
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

    def _piece(self, cell: Cell, piece: Piece, name: str | int) -> Piece:
        """What a rank has of a cell's elements, or of their units."""
        if name != UNITS:
            return piece
        if cell.grid is None:
            return piece._replace(there=ranges_in("unit", piece.there))
        length = self._units[cell.tensor]
        begin, end = cell.begin + piece.there.start, cell.begin + piece.there.stop
        first, last = begin // length, -(-end // length)
        return Piece(
            piece.rank,
            *(slice(first - n // length, last - n // length) for n in (begin - piece.here.start, cell.begin)),
        )

    def _extent(self, cell: Cell, name: str | int) -> tuple[int, Shape]:
        """The first element of a cell, or the first unit that it has elements of; and the shape of what there is."""
        if name != UNITS:
            return cell.begin, cell.shape
        length = self._units[cell.tensor]
        first = cell.begin // length
        return first, (-(-cell.end // length) - first,)

    def _room(self, k: int, arrays: Arrays) -> Arrays:
        """Memory for a cell; its record points there, as if the whole tensor were."""
        cell, row, made = self.cells[k], self.tensors[k : k + 1], {}
        row["slot"][:, records.ACCUMULATOR] = row["slot"][:, records.SHADOW] = 0
        for name, array in arrays.items():
            first, shape = self._extent(cell, name)
            made[name] = np.zeros(shape, array.dtype)
            place = row["slot"][:, name : name + 1] if isinstance(name, int) else row[name].reshape(1, 1)
            place[...] = shifted(address(made[name]), first * array.itemsize)
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
