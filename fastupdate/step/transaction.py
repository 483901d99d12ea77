"""Changes that happen wholly or not at all, whatever exception a signal handler raises, and whenever it does.

CPython runs signal handlers between two bytecodes, so never while one C function calls others. Whoever changes an
optimizer therefore makes all that is new beside what there is, which may fail, and then has the assignments made by
one call. An assignment is a tuple: a function of C, and its arguments.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import starmap
from operator import call
from typing import Any

from fastupdate.arrays.memory import Assignment

TRIES = 20  # to give a schedule its old state back; one whose `load_state_dict` is broken fails as often

Stateful = tuple[Any, Mapping[str, Any]]  # a schedule of the user's, and the state that it is to load


def at_once(assignments: Sequence[Assignment], schedules: Iterable[Stateful] = ()) -> None:
    """Loads the schedules and makes the assignments, or does nothing of it and raises.

    Schedules are the user's code, which may raise anywhere: they go first, and those that have changed get their old
    state back.
    """
    schedules = list(schedules)
    old = [(schedule, copy.deepcopy(schedule.state_dict())) for schedule, _ in schedules]
    made: list[bool] = []
    try:
        for schedule, state in schedules:
            schedule.load_state_dict(state)
        _make([*assignments, (made.append, True)])
    except BaseException:
        if not made:
            _put_back(old)
        raise


def in_turn(calls: Iterable[Assignment]) -> None:
    """Makes calls one after the other, of which the first may fail, with nothing in between: a step and its count."""
    deque(starmap(call, calls), maxlen=0)


def _make(assignments: Sequence[Assignment]) -> None:
    try:
        deque(starmap(call, assignments), maxlen=0)
    except MemoryError:  # of a few bytes, for what is assigned is there: another try does not fail halfway again
        deque(starmap(call, assignments), maxlen=0)


def _put_back(old: list[Stateful]) -> None:
    for schedule, state in old:
        for _ in range(TRIES):  # interrupts may come here too; the error that brought us here is the one that is raised
            try:
                schedule.load_state_dict(state)
                break
            except BaseException:
                continue
