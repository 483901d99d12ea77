"""Ranks that share parameters and take steps without a message: that they have the same list and options, and gradients
of the same parameters, they tell each other at the first step, and when others have gradients than before.

They do so by the store through which they found each other, since a rank alone with a change may not send a message:
the others' next one may be of another kind. A step like the last one asks nothing of it.
"""

from __future__ import annotations

import json
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from zlib import crc32

from torch import distributed

from fastupdate.arrays import tree
from fastupdate.arrays.place import Place
from fastupdate.sharded.alike import Facts, compare, in_words, options_in_words
from fastupdate.step.options import Settings
from fastupdate.torch.alike import ALIKE, Roll, paths_of
from fastupdate.torch.looking import same_objects
from fastupdate.torch.messages import Peers
from fastupdate.torch.names import STEP
from fastupdate.torch.numbers import checked, keys_of
from fastupdate.torch.shards import peers_of

if TYPE_CHECKING:
    from fastupdate.torch.optimizer import Optimizer

PROBLEM = "problem"
PATIENCE = timedelta(seconds=30)  # after which a rank that waits for others says so
_numbers: dict[str, int] = {}  # how often some ranks have told each other something


class Circle:
    """Ranks that share parameters, as far as they tell each other by the store."""

    def __init__(self, peers: Peers) -> None:
        self.rank, self._members = peers.rank, peers.ranks
        self._name = f"fastupdate/{len(self._members)}/{crc32(repr(self._members).encode())}"
        c10d: Any = distributed.distributed_c10d
        self._store = c10d.PrefixStore(self._name, c10d._get_default_store())
        self._before: list[str] = []  # what is in the store of the last time

    def told(self, words: str, place: Place, alone: str) -> list[str]:
        """What each rank says, if they differ; [] if all say these words. alone: what to tell if others say nothing."""
        store, number, ranks = self._store, _numbers.get(self._name, 0), len(self._members)
        same, came, done = keys = [f"{number}/{crc32(words.encode())}", f"{number}/came", f"{number}/done"]
        store.add(same, 1)
        if store.add(came, 1) == ranks:
            for key in self._before:  # all have read it
                store.delete_key(key)
            store.set(done, "alike" if store.add(same, 0) == ranks else "not alike")
        try:
            self._wait(done, place, alone)
        except ValueError:
            store.add(same, -1)
            store.add(came, -1)
            raise
        _numbers[self._name] = number + 1
        if store.get(done) == b"alike":
            self._before = keys
            return []
        store.set(f"{number}/{self.rank}", words)
        return [store.get(f"{number}/{rank}").decode() for rank in range(ranks)]

    def _wait(self, key: str, place: Place, alone: str) -> None:
        expected = f"the same on all {len(self._members)} ranks that share parameters"
        received = f"{alone} on rank {self.rank}"
        try:
            self._store.wait([key], PATIENCE)
        except RuntimeError:
            words = f"{place}: expected {expected}, received {received}, and no word of others for {PATIENCE}"
            warnings.warn(f"{words}; it waits for {self._store.timeout} more", RuntimeWarning, stacklevel=2)
            try:
                self._store.wait([key])
            except RuntimeError:
                place.fail(ValueError, expected, f"{received}, and no word of others for {self._store.timeout}")


class Agreement:
    """What the ranks that share parameters of an optimizer know of each other."""

    def __init__(self, optimizer: Optimizer, moving: list[list[Any]]) -> None:
        """All ranks are to call this: their first steps. moving: the parameters that have gradients, group by group"""
        groups = optimizer.param_groups
        self._params = _listed(groups)
        self._circles: list[tuple[Circle, Roll]] = []
        for peers, params in peers_of(self._params):
            if len(peers.ranks) > 1 and not peers.is_fake:
                self._circles.append((Circle(peers), Roll(optimizer.rule.name, groups, moving, params)))
                _meet(self._circles[-1][0], optimizer, moving, {id(p) for p in params})

    def holds(self, groups: list[dict[str, Any]]) -> bool:
        """Whether it is of their parameters, as they are now."""
        return bool(same_objects(self._params, _listed(groups)))

    def follow(self, moving: list[list[Any]], steps: int, *, known: bool) -> None:
        """Ranks move these parameters after so many steps. known: they have told each other of it already."""
        for circle, roll in self._circles:
            if not (known or roll.moves(moving)):
                place, received = roll.change(moving)
                told = [*map(json.loads, circle.told(json.dumps([roll.other(moving), steps]), place, received))]
                roll.check([standing for standing, _ in told] or [ALIKE])
                for rank, (_, other) in enumerate(told):
                    compare(place.rule, {"step": str(told[0][1])}, {"step": str(other)}, rank)
            roll.follow(moving)


def _listed(groups: list[dict[str, Any]]) -> list[Any]:
    return [p for group in groups for p in group["params"]]


def _meet(circle: Circle, optimizer: Optimizer, moving: list[list[Any]], chosen: set[int]) -> None:
    rule, problem = optimizer.rule.name, None
    try:
        own = _facts(optimizer, moving, chosen)
    except Exception as error:
        problem, own = error, {PROBLEM: f"{type(error).__name__}: {error}"}
    place = Place(rule, "params")
    told = [json.loads(words) for words in circle.told(json.dumps(own), place, "the first step of an optimizer")]
    if problem is not None:
        raise problem
    for rank, other in enumerate(told):
        if PROBLEM in other:
            place.fail(ValueError, "such as all ranks can step by", f"{other[PROBLEM]} on rank {rank}")
    for rank, other in enumerate(told):
        compare(rule, told[0], other, rank)


def agree(optimizer: Optimizer, moving: list[list[Any]], steps: int, *, known: bool) -> None:
    """Sees to it that ranks that share parameters of an optimizer move the same ones; ValueError names what differs.

    moving: group by group; steps: that were taken; known: they have told each other of that already
    """
    if optimizer.agreement is None or not optimizer.agreement.holds(optimizer.param_groups):
        optimizer.agreement = Agreement(optimizer, moving)
    else:
        optimizer.agreement.follow(moving, steps, known=known)


def _facts(optimizer: Optimizer, moving: list[list[Any]], chosen: set[int]) -> Facts:
    """What has to be the same on all ranks that share the chosen parameters."""
    rule, groups = optimizer.rule, optimizer.param_groups
    facts = {"rule": rule.name, "params": f"{len(chosen)} that ranks share"}
    facts |= options_in_words(Settings(rule.name, **optimizer.options))
    for k, group in enumerate(groups):
        values = checked(rule, {key: group[key] for key in (*keys_of(rule, group), "params")})
        facts |= {f"param_groups[{k}][{name!r}]": in_words(value) for name, value in values.items()}
    have = {id(p) for params in moving for p in params}
    for path, p in zip(paths_of(groups), _listed(groups), strict=True):
        if id(p) in chosen:
            entry, gradient = optimizer.state.get(p, {}), "with a gradient" if id(p) in have else "without a gradient"
            steps = int(dict.get(entry, STEP, 0))
            words = (
                f"one {gradient} of shape {tuple(p.shape)}, {p.dtype}, placements {p.placements}, after {steps} steps"
            )
            facts[tree.shown("params", path)] = words
    return facts
