"""Factors of matrices that ranks share (SOAP's): one rank has all of them, the one that multiplies the matrix.

In what is saved ranks share them as they do the matrix, by rows for example, so that any number of ranks can go on from
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import torch

from fastupdate.rules.extent import Shape
from fastupdate.rules.rule import Rule
from fastupdate.sharded.division import balanced
from fastupdate.torch.messages import Peers
from fastupdate.torch.names import state_names
from fastupdate.torch.shards import along, is_dtensor, is_shared_as, like, part_of, peers_of

Owners = Mapping[int, int]  # of each matrix, by its id: which one of the ranks that share it multiplies it


def owners_of(groups: Iterable[Mapping[str, Any]]) -> Owners:
    """Those of the matrices of one rule: the largest first, to the rank that has the least to do.

    Where a group joins others, nothing of theirs changes hands.
    """
    loads: dict[tuple[int, ...], list[int]] = {}
    owners: dict[int, int] = {}
    for group in groups:
        for peers, shared in peers_of(group["params"]):
            load = loads.setdefault(tuple(peers.ranks), [0] * len(peers.ranks))
            costs = [p.numel() * min(p.shape, default=0) for p in shared]
            owners |= zip(map(id, shared), balanced(costs, load), strict=True)
    return owners


def shape_here(shape: Shape, p: Any, owner: int) -> Shape:
    """The shape of what is here of a factor of this shape: all, or no rows."""
    return shape if _peers(p).rank == owner else (0, *shape[1:])


class Cuts:
    """How ranks share factors in what is saved. All that share a matrix are to ask for the same, in the same order."""

    def __init__(self) -> None:
        self._known: dict[Any, Cut] = {}

    def shared_out(self, rule: Rule, entry: Mapping[str, Any], p: Any, owner: int) -> dict[str, Any]:
        """What is kept of a matrix, ranks having parts of its factors."""
        names = {state_names(rule)[name] for name in rule.factors}
        return {
            key: self._cut(value.shape[1], p).apart(value, p, owner)
            if key in names and not is_dtensor(value) and value.shape[1]
            else value
            for key, value in entry.items()
        }

    def brought_together(self, factor: Any, p: Any, owner: int) -> Any:
        """What is here of a factor of which ranks had parts."""
        return self._cut(factor.shape[1], p).together(factor, owner) if is_shared_as(factor, p) else factor

    def _cut(self, length: int, p: Any) -> Cut:
        key = length, p.device_mesh, p.placements
        if key not in self._known:
            self._known[key] = Cut(length, p)
        return self._known[key]


class Cut:
    """What each rank has of a factor of so many rows and columns, which is shared as a matrix is."""

    def __init__(self, length: int, p: Any) -> None:
        self._length, self._peers = length, _peers(p)
        self._parts = self._peers.gather_objects(along((length, length), p, {}))
        self._shapes = [tuple(len(torch.arange(length, device="cpu")[each]) for each in part) for part in self._parts]

    def _counts(self, owner: int) -> tuple[list[int], list[int]]:
        """Elements that the owner has for each rank, and each has of the owner's, as far as this rank has some."""
        counts, rank = [*map(prod, self._shapes)], self._peers.rank
        of_owner = counts if rank == owner else [0] * len(counts)
        return of_owner, [counts[rank] if k == owner else 0 for k in range(len(counts))]

    def _index(self, part: Any) -> Any:
        rows, columns = (torch.arange(self._length, device="cpu")[each] for each in part)
        return rows[:, None], columns

    def apart(self, factor: Any, p: Any, owner: int) -> Any:
        """The owner's factor, each rank having its part."""
        sent, come = self._counts(owner)
        parts = self._parts if self._peers.rank == owner else []
        out = torch.cat([factor.new_empty(0), *(factor[self._index(part)].reshape(-1) for part in parts)])
        here = factor.new_empty(self._shapes[self._peers.rank])
        self._peers.exchange(here.view(-1), out, come, sent)
        return like(p, here, (self._length, self._length))

    def together(self, factor: Any, owner: int) -> Any:
        """All of a factor for its owner, and no rows for others."""
        come, sent = self._counts(owner)
        here = part_of(factor).contiguous().view(-1)
        got = here.new_empty(sum(come))
        self._peers.exchange(got, here, come, sent)
        whole = here.new_empty((self._length if self._peers.rank == owner else 0, self._length))
        if len(whole):
            for part, shape, of_rank in zip(self._parts, self._shapes, got.split(come), strict=True):
                whole[self._index(part)] = of_rank.view(shape)
        return whole


def _peers(p: Any) -> Peers:
    [(peers, _)] = peers_of([p])
    return peers
