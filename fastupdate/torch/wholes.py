"""Tensors that ranks have boxes of, each whole on the rank that sums it, and what is read of it there."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import torch

from fastupdate.arrays.memory import DTYPES, Array, address
from fastupdate.sharded.boxes import shape_of_box
from fastupdate.sharded.cells import Values
from fastupdate.sharded.reader import Reader
from fastupdate.sharded.telling import Group, Known, Telling
from fastupdate.sharded.together import Arrays
from fastupdate.step.stepper import Stepper
from fastupdate.torch.borrowed import Borrowed
from fastupdate.torch.messages import Peers
from fastupdate.torch.shards import part_of


class Wholes:
    """Those of a group: of each array, the owner is lent what others have.

    cells   those that this rank owns
    """

    def __init__(self, stepper: Stepper, params: list[Any], group: Group) -> None:
        self._arrays = {k: stepper.plan.items[k].array for k in group.boxes}
        cells = [*group.wholes([tuple(p.shape) for p in params])]
        arrays: dict[int, Arrays] = {k: {"g": array} for k, array in self._arrays.items()}
        self._lent = Borrowed(group.handle, cells, arrays, stepper.plan.tensors, opens=False)
        self.cells = self._lent.cells

    def of(self, tensors: list[Any]) -> dict[int, Array]:
        """Of these tensors, shared as the parameters are, those that are whole here; in the parameters' types."""

        def here(k: int, elements: Any) -> Array:
            dtype = getattr(torch, self._arrays[k].dtype.name)
            return np.asarray(part_of(tensors[k]).detach().to(dtype).numpy()[elements])

        self._lent.gather(here, 0.0)
        return {cell.tensor: kept["g"] for cell, kept in zip(self.cells, self._lent.kept, strict=True)}


class SliceNorms:
    """Norms of the slices along the first axis of such tensors: units of what `clip_unit_norm` clips.

    here   which slices of which tensor this rank has something of
    """

    def __init__(self, stepper: Stepper, params: list[Any], group: Group) -> None:
        group = group.of({k for k in group.boxes if params[k].dim() > 1})
        self._wholes = Wholes(stepper, params, group)
        own = {k: boxes[group.rank] for k, boxes in group.boxes.items()}
        self.here = {k: box[0] if prod(shape_of_box(box)) else slice(0, 0) for k, box in own.items()}
        self._norms: dict[int, Values] = {k: np.zeros((params[k].shape[0], 1)) for k in group.tensors}
        known = [[*self._known(group, rank)] for rank in range(len(group.ranges))]
        self._telling = Telling(Peers.gather, group, known, [False])
        cells = self._wholes.cells
        counts = [cell.shape[0] for cell in cells]
        lengths = [cell.end // max(count, 1) for cell, count in zip(cells, counts, strict=True)]
        codes = [DTYPES[stepper.plan.items[cell.tensor].array.dtype] for cell in cells]
        self._reader = Reader(stepper, np.repeat(lengths, counts).tolist(), np.repeat(codes, counts).tolist())
        self._reader.rows["g_dtype"] = self._reader.rows["dtype"]

    def _known(self, group: Group, rank: int) -> Iterator[Known]:
        for k, r in zip(group.tensors, group.ranges[rank], strict=True):
            yield Known(self._norms[k], 0, len(self._norms[k]) if r.end else 0, 0)

    def of(self, tensors: list[Any], unit: float) -> dict[int, Values]:
        """Of each of these tensors, shared as the parameters are, the norms of all slices, in units of `unit`."""
        wholes = [*self._wholes.of(tensors).items()]
        bases = [address(array) + array.strides[0] * np.arange(len(array), dtype=np.uint64) for _, array in wholes]
        self._reader.rows["g"] = np.concatenate([np.zeros(0, np.uint64), *bases])
        found = np.sqrt(self._reader.read(1 / unit)[:, :1])
        at = 0
        for k, array in wholes:
            self._norms[k][...] = found[at : at + len(array)]
            at += len(array)
        self._telling.tell()
        return {k: norms[:, 0].copy() for k, norms in self._norms.items()}
