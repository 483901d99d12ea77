"""Matrices of which ranks have rows: each comes together on one rank, which multiplies it and hands the rows back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastupdate.arrays.memory import Array
from fastupdate.sharded.division import balanced
from fastupdate.sharded.telling import Group
from fastupdate.step.plan import Plan
from fastupdate.torch.borrowed import fill, take_apart

Product = Callable[[int, list[Array]], list[Array]]  # of a tensor: its place, and arrays in and out


class Matrices:
    """Those of a plan of which other ranks have rows.

    shared   their places among the tensors
    """

    def __init__(self, params: list[Any], groups: list[Group]) -> None:
        self.shared = frozenset(k for group in groups for k in group.tensors)
        self._deals = [Deal(group, [tuple(params[k].shape) for k in group.tensors]) for group in groups]

    def multiply(self, plan: Plan, kinds: list[str], product: Product) -> None:
        """Puts products in the place of the arrays of these kinds, of what is here of each."""
        for deal in self._deals:
            deal.multiply(plan, kinds, product)


class Deal:
    """Which rank of a group multiplies which of their matrices: the largest first, to the one that has least to do."""

    def __init__(self, group: Group, shapes: list[tuple[int, ...]]) -> None:
        self._group, self._shapes = group, dict(zip(group.tensors, shapes, strict=True))
        owners = balanced([int(np.prod(shape)) * min(shape) for shape in shapes], len(group.ranges))
        self._of = [  # each rank
            [k for k, owner in zip(group.tensors, owners, strict=True) if owner == rank]
            for rank in range(len(group.ranges))
        ]

    def _part(self, rank: int, k: int, whole: Array) -> Array:
        """What a rank has of a matrix."""
        if k in self._group.boxes:
            return whole[self._group.boxes[k][rank]]
        r = self._group.ranges[rank][self._group.tensors.index(k)]
        return whole.reshape(-1)[r.begin : r.end]

    def multiply(self, plan: Plan, kinds: list[str], product: Product) -> None:
        """Two messages of each rank to each: parts go to the rank that multiplies, and come back."""
        rank, ranks = self._group.rank, range(len(self._of))
        here = {k: [plan.items[k].passing[kind] for kind in kinds] for k in self._group.tensors}
        parts = [[array for k in self._of[owner] for array in here[k]] for owner in ranks]
        types = {k: [array.dtype for array in arrays] for k, arrays in here.items()}
        own = {k: [np.empty(self._shapes[k], dtype) for dtype in types[k]] for k in self._of[rank]}
        wholes = [[self._part(holder, k, array) for k, arrays in own.items() for array in arrays] for holder in ranks]
        self._send(parts, wholes)
        for k, arrays in own.items():
            for array, made in zip(arrays, product(k, arrays) if arrays[0].size else [], strict=False):
                array[...] = made
        self._send(wholes, parts)

    def _send(self, sent: list[list[Array]], to: list[list[Array]]) -> None:
        """Copies arrays of each rank to those that another one has for them."""
        out, into = (
            torch.empty(_bytes(each for of in arrays for each in of), dtype=torch.uint8) for arrays in (sent, to)
        )
        fill(out.numpy(), chain.from_iterable(sent))
        come, go = ([_bytes(of_rank) for of_rank in arrays] for arrays in (to, sent))
        self._group.handle.exchange(into, out, come, go)
        take_apart(into.numpy(), chain.from_iterable(to))


def _bytes(arrays: Iterable[NDArray[Any]]) -> int:
    return sum(array.nbytes for array in arrays)
