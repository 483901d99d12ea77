"""Ranks that take the same step, or raise together: what each is about to do, in a number of its first message.

ALIKE: it moves the parameters that moved in the step before. FAILED: an error keeps it from that. Else other parameters
have gradients than before: the first of them, and a digest of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from zlib import crc32

from fastupdate.arrays import tree
from fastupdate.arrays.place import Place

ALIKE, FAILED = -1.0, -2.0
DIGESTS = 2**32


def paths_of(groups: Iterable[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    """What messages call the parameters of an optimizer."""
    for k, group in enumerate(groups):
        names = group.get("param_names")
        yield from ((k, i) if names is None else (names[i],) for i in range(len(group["params"])))


class Roll:
    """Which of an optimizer's parameters move in the steps of a run."""

    def __init__(
        self,
        rule: str,
        groups: Sequence[dict[str, Any]],
        moving: Iterable[Iterable[Any]],
        among: Iterable[Any] | None = None,
    ) -> None:
        """among: the parameters that count; None: all of the groups"""
        params = [p for group in groups for p in group["params"]]
        chosen = {id(p) for p in (params if among is None else among)}
        counting = [(path, p) for path, p in zip(paths_of(groups), params, strict=True) if id(p) in chosen]
        self._rule, self._paths, self._params = rule, [path for path, _ in counting], [p for _, p in counting]
        self.follow(moving)

    def follow(self, moving: Iterable[Iterable[Any]]) -> None:
        """These move from now on."""
        self._moves = self._those(moving)

    def moves(self, moving: Iterable[Iterable[Any]]) -> bool:
        """Whether these are the ones that move."""
        return self._moves == self._those(moving)

    def _those(self, moving: Iterable[Iterable[Any]]) -> bytes:
        chosen = {id(p) for params in moving for p in params}
        return bytes(id(p) in chosen for p in self._params)

    def change(self, moving: Iterable[Iterable[Any]]) -> tuple[Place, str]:
        """The first gradient that has come or gone where these are to move: its name, and what there is now."""
        k = next(k for k, (a, b) in enumerate(zip(self._moves, self._those(moving), strict=True)) if a != b)
        return self._named(k)

    def _named(self, k: int) -> tuple[Place, str]:
        return Place(self._rule, tree.shown("grads", self._paths[k])), "None" if self._moves[k] else "one"

    def other(self, moving: Iterable[Iterable[Any]]) -> float:
        """What a rank tells that is to move these parameters."""
        now = self._those(moving)
        changed = (k for k, (a, b) in enumerate(zip(self._moves, now, strict=True)) if a != b)
        return float(next(changed, len(now)) * DIGESTS + crc32(now))

    def check(self, told: Sequence[float]) -> None:
        """Raises unless all ranks that share parameters have told the same, which is no error."""
        if FAILED in told:
            received = f"an error on rank {told.index(FAILED)} of those that share them"
            Place(self._rule, "grads").fail(ValueError, "such as all ranks can step by", received)
        if len({*told}) == 1:
            return
        changed = [len(self._paths) if each == ALIKE else int(each) // DIGESTS for each in told]
        first = min(changed)
        ranks = [rank for rank, k in enumerate(changed) if k == first]
        if first == len(self._paths) or len(ranks) == len(told):
            place, expected = Place(self._rule, "grads"), "those of the same parameters on all ranks"
            place.fail(ValueError, expected, f"others on rank {told.index(max(told))} of those that share them")
        place, received = self._named(first)
        received = f"{received} on rank {', '.join(map(str, ranks))} of those that share it"
        place.fail(ValueError, "a gradient on every rank, or on none", received)
