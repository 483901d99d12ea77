"""Ranks that go on together, or raise together: what one of them has other than the rest is named on all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any
from zlib import crc32

import numpy as np

from fastupdate.arrays.memory import Array
from fastupdate.arrays.place import Place
from fastupdate.step.options import Settings

OPTIONS = [field.name for field in fields(Settings) if field.name != "rule"]

Facts = Mapping[str, str]  # what has to be the same on all ranks, in words, by the names of arguments


class Ranks:
    """The ranks of a communicator of mpi4py's."""

    def __init__(self, rule: str, comm: Any) -> None:
        if not all(hasattr(comm, name) for name in ("Iallgatherv", "Ialltoallv", "Get_rank", "Get_size")):
            Place(rule, "comm").fail(TypeError, "a communicator of mpi4py's (MPI.COMM_WORLD)", type(comm).__name__)
        self._rule, self.comm = rule, comm
        self.rank, self.count = comm.Get_rank(), comm.Get_size()

    def agree(self, problem: Exception | None, digest: bytes, facts: Callable[[], Facts]) -> None:
        """Goes on if no rank has a problem, and all have the same facts; else all raise.

        A message of 16 bytes, unless something is wrong. digest: of the facts.
        """
        sent = np.array([problem is not None, crc32(digest)], np.int64)
        told = np.zeros((self.count, 2), np.int64)
        self.comm.Allgather(sent, told)
        if told[:, 0].any() or (told[:, 1] != told[0, 1]).any():
            self._raise(problem, {} if problem else facts())

    def _raise(self, problem: Exception | None, facts: Facts) -> None:
        words = None if problem is None else (type(problem).__name__, str(problem))
        told = self.comm.allgather((words, dict(facts)))
        if problem is not None:
            raise problem
        for rank, (said, _) in enumerate(told):
            if said is not None:
                expected, received = f"no error on any of {self.count} ranks", f"{said[0]} on rank {rank}: {said[1]}"
                Place(self._rule, "comm").fail(ValueError, expected, received)
        for rank, (_, other) in enumerate(told):
            compare(self._rule, told[0][1], other, rank)


def compare(rule: str, first: Facts, other: Facts, rank: int) -> None:
    """ValueError for the first argument of which a rank has something else than the first one."""
    for argument in {**first, **other}:
        expected, received = first.get(argument, "none"), other.get(argument, "none")
        if expected != received:
            place = Place(rule, argument)
            place.fail(ValueError, f"the same on all ranks, {expected} as on the first", f"{received} on rank {rank}")


def options_in_words(settings: Settings) -> dict[str, str]:
    """The options that have to be the same on all ranks, by name."""
    return {name: in_words(getattr(settings, name)) for name in OPTIONS if name not in ("groups", "state")}


def in_words(value: Any) -> str:
    """A value of which ranks tell each other: numbers as they are, schedules as such."""
    if isinstance(value, Mapping):
        return repr({key: in_words(each) for key, each in value.items()})
    return f"a schedule ({type(value).__name__})" if callable(value) else repr(value)


def values_of(array: Array) -> str:
    """The values of an array, in short."""
    return f"{crc32(array.reshape(-1).view(np.uint8).data):08x}"
