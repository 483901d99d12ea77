"""Matrices of which ranks have rows: each comes together on one rank, which multiplies it and hands the rows back.

It has the factors that a rule keeps of them, too (factors.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from operator import setitem
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastupdate.arrays.memory import Array, Assignment
from fastupdate.arrays.place import Place
from fastupdate.sharded.telling import Group
from fastupdate.step.extents import array_of
from fastupdate.step.plan import Plan
from fastupdate.step.tensors import state_kind
from fastupdate.torch.borrowed import fill, take_apart
from fastupdate.torch.factors import Owners

Product = Callable[[int, list[Array]], list[Array]]  # of a tensor: its place, and arrays in and out


class Matrices:
    """Those of a plan of which other ranks have rows.

    shared   their places among the tensors
    """

    def __init__(self, params: list[Any], groups: list[Group], owners: Owners) -> None:
        self.shared = frozenset(k for group in groups for k in group.tensors)
        self._deals = [
            Deal(
                group,
                {k: tuple(params[k].shape) for k in group.tensors},
                [owners[id(params[k])] for k in group.tensors],
            )
            for group in groups
        ]

    def multiply(self, plan: Plan, kinds: list[str], product: Product) -> list[Assignment]:
        """Puts products in the place of the arrays of these kinds, of what is here of each; the assignments of what is
        kept for later steps."""
        return [made for deal in self._deals for made in deal.multiply(plan, kinds, product)]


class Deal:
    """What the ranks of a group do with their matrices. owners: of each, which rank multiplies it."""

    def __init__(self, group: Group, shapes: dict[int, tuple[int, ...]], owners: list[int]) -> None:
        self._group, self._shapes = group, shapes
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

    def multiply(self, plan: Plan, kinds: list[str], product: Product) -> list[Assignment]:
        """Two messages of each rank to each: parts go to the rank that multiplies; products come back, or an error."""
        rank, ranks = self._group.rank, range(len(self._of))
        factors = {state_kind(name) for name in plan.rule.factors}
        cut = [kind for kind in kinds if kind not in factors]
        here = {k: [array_of(plan.items[k], kind) for kind in cut] for k in self._group.tensors}
        made = {k: [np.empty_like(array) for array in arrays] for k, arrays in here.items()}
        own = {
            k: {kind: np.empty(self._shapes[k], array.dtype) for kind, array in zip(cut, here[k], strict=True)}
            for k in self._of[rank]
        }
        wholes = [
            [self._part(holder, k, array) for k, arrays in own.items() for array in arrays.values()] for holder in ranks
        ]
        self._send([[array for k in self._of[owner] for array in here[k]] for owner in ranks], wholes)
        kept: list[Assignment] = []
        problem: Exception | None = None
        try:
            for k, arrays in own.items():
                kept += _multiplied(plan, k, kinds, arrays, product)
        except Exception as error:
            problem = error
        failed = np.full(1, problem is not None)
        told = np.zeros(len(ranks), bool)
        self._send(
            [[failed, *of_rank] for of_rank in wholes],
            [[told[k : k + 1], *(a for t in self._of[k] for a in made[t])] for k in ranks],
        )
        if problem is not None:
            raise problem
        if told.any():
            received = f"an error on rank {int(told.argmax())} of those that share them"
            Place(plan.rule.name, "grads").fail(FloatingPointError, "such as all ranks can step by", received)
        for k, arrays_here in here.items():
            for kind, array, new in zip(cut, arrays_here, made[k], strict=True):
                if kind in plan.items[k].passing:
                    array[...] = new
                else:
                    kept.append((setitem, array, ..., new))
        return kept

    def _send(self, sent: list[list[Array]], to: list[list[Array]]) -> None:
        """Copies arrays of each rank to those that another one has for them."""
        out, into = (
            torch.empty(_bytes(each for of in arrays for each in of), dtype=torch.uint8, device="cpu")
            for arrays in (sent, to)
        )
        fill(out.numpy(), chain.from_iterable(sent))
        come, go = ([_bytes(of_rank) for of_rank in arrays] for arrays in (to, sent))
        self._group.handle.exchange(into, out, come, go)
        take_apart(into.numpy(), chain.from_iterable(to))


def _multiplied(
    plan: Plan, k: int, kinds: list[str], wholes: dict[str, Array], product: Product
) -> Iterable[Assignment]:
    """Multiplies a matrix, all of whose arrays of elements are here; the assignments of its factors."""
    arrays = [wholes[kind] if kind in wholes else array_of(plan.items[k], kind) for kind in kinds]
    for kind, array, new in zip(kinds, arrays, product(k, arrays) if arrays[0].size else [], strict=False):
        if kind in wholes:
            array[...] = new
        elif new is not array:
            yield setitem, array, ..., new


def _bytes(arrays: Iterable[NDArray[Any]]) -> int:
    return sum(array.nbytes for array in arrays)
