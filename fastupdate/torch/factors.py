"""Factors of matrices of which ranks have rows (SOAP's): one rank has all of them, the one that multiplies the matrix.

In what is saved ranks have rows of them, as of the matrix, so that any number of ranks can go on from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import distributed

from fastupdate.rules.extent import Shape
from fastupdate.rules.rule import Rule
from fastupdate.sharded.division import balanced
from fastupdate.torch.names import state_names
from fastupdate.torch.shards import group_of, is_dtensor, is_shared_as, like, part_of, peers_of

Owners = Mapping[int, int]  # of each matrix, by its id: which one of the ranks that share it multiplies it


def owners_of(groups: Iterable[Mapping[str, Any]]) -> Owners:
    """Those of the matrices of one rule: the largest first, to the rank that has the least to do.

    Where a group joins others, nothing of theirs changes hands.
    """
    loads: dict[tuple[str, ...], list[int]] = {}
    owners: dict[int, int] = {}
    for group in groups:
        for peers, shared in peers_of(group["params"]):
            load = loads.setdefault(peers.name, [0] * len(peers.ranks))
            costs = [p.numel() * min(p.shape, default=0) for p in shared]
            owners |= zip(map(id, shared), balanced(costs, load), strict=True)
    return owners


def shape_here(shape: Shape, p: Any, owner: int) -> Shape:
    """The shape of what is here of a factor of this shape: all, or no rows."""
    return shape if distributed.get_rank(group_of(p)) == owner else (0, *shape[1:])


def shared_out(rule: Rule, entry: Mapping[str, Any], p: Any, owner: int) -> dict[str, Any]:
    """What is kept of a matrix, ranks having rows of its factors. All that share it are to call this."""
    names = {state_names(rule)[name] for name in rule.factors}
    return {
        key: _in_rows(value, p, owner) if key in names and not is_dtensor(value) and value.shape[1] else value
        for key, value in entry.items()
    }


def _in_rows(factor: Any, p: Any, owner: int) -> Any:
    length = factor.shape[1]
    rows, sent, come = _counts(length, p, owner)
    part = factor.new_empty((rows, length))
    distributed.all_to_all_single(part, factor, come, sent, group=group_of(p))
    return like(p, part, (length, length))


def brought_together(factor: Any, p: Any, owner: int) -> Any:
    """What is here of a factor of which ranks had rows. All that share it are to call this."""
    if not is_shared_as(factor, p):
        return factor
    length = factor.shape[1]
    _, come, sent = _counts(length, p, owner)
    whole = part_of(factor).new_empty((sum(come), length))
    distributed.all_to_all_single(whole, part_of(factor).contiguous(), come, sent, group=group_of(p))
    return whole


def _counts(length: int, p: Any, owner: int) -> tuple[int, list[int], list[int]]:
    """Of so many rows, cut as torch cuts them: how many are here, the owner has for each rank, each has of its."""
    group = group_of(p)
    rank, ranks = distributed.get_rank(group), distributed.get_world_size(group)
    most = -(-length // ranks)
    counts = [max(min(length - k * most, most), 0) for k in range(ranks)]
    of_owner = counts if rank == owner else [0] * ranks
    return counts[rank], of_owner, [counts[rank] if k == owner else 0 for k in range(ranks)]
