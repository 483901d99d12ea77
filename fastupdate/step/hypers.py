"""Hyperparameters by group: what the user set or scheduled, as rows of numbers that engines read.

Setting a number stores one float64 in a row, which the next step reads, whoever set it and when. A schedule is a link
from a place in the rows to a table of values, worked out for many steps at once if it is a pure function of the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from itertools import count
from operator import setitem
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastupdate.arrays import memory
from fastupdate.arrays.memory import Assignment
from fastupdate.arrays.numbers import NON_NEGATIVE, Interval, real, switch
from fastupdate.arrays.place import Place
from fastupdate.engines import records
from fastupdate.engines.records import REVISION, Given
from fastupdate.groups import sort_into_groups
from fastupdate.rules.rule import Rule, given_together
from fastupdate.schedules import Schedule
from fastupdate.stages import HYPERS
from fastupdate.step.options import Options, Settings
from fastupdate.step.transaction import at_once

# What the row of a group holds after the rule's own hyperparameters (csrc/core/derive.h).
SHARED: dict[str, tuple[float, Interval]] = {
    "lr_scale": (1.0, NON_NEGATIVE),
    **{name: (hyper.default, hyper.interval) for name, hyper in HYPERS.items()},
}
CLIP, CLIP_LIMITS = "clip_value", ("clip_low", "clip_high")  # a pair for the first is one for the others
FROZEN_UNTIL = "frozen_until"  # set once for each group, and no schedule
AHEAD = 1024  # steps of a schedule that are worked out at once
NONE = range(0)  # of them

_revisions = count(1)


class Group(MutableMapping[str, Any]):
    """The hyperparameters of some tensors, by name: numbers, or schedules (step → number).

    `group["params"]` lists the tensors' names. Setting a value checks it at once; a schedule's values are checked in
    the step that uses them.
    """

    def __init__(
        self,
        rule: Rule,
        intervals: Mapping[str, Interval],
        params: list[str],
        values: Mapping[str, Any],
        row: Any,
        clock: Any,
        off: Mapping[str, float],
    ) -> None:
        """intervals: the values that the rule's hyperparameters may have

        off: the hyperparameters of options that are off, which stay as they are by default
        """
        self._rule = rule
        self._aliases = rule.aliases
        self._off = off
        self._unused, self._settled = frozenset[str](), frozenset[str]()
        self._intervals = {**intervals, **{name: interval for name, (_, interval) in SHARED.items()}}
        self._columns = {name: k for k, name in enumerate(self._intervals)}
        self._low, self._high = ([interval[k] for interval in self._intervals.values()] for k in (0, 1))
        counts = [name for name, interval in self._intervals.items() if interval.whole]
        self._look_closely_at((*off, *counts))
        self._intervals[FROZEN_UNTIL] = NON_NEGATIVE
        self._row: NDArray[np.float64] = row
        self._clock: NDArray[np.int64] = clock
        self._fixed: dict[str, Any] = {"params": params}
        self._schedules: dict[str, Any] = {}
        for key, value in values.items():
            self[key] = value
        self._fixed.setdefault(FROZEN_UNTIL, 0.0)

    def settle(self, unused: frozenset[str], made_by: frozenset[str]) -> None:
        """From now on stays what it is: what is `unused`, being 0, and would need states or equations that there are
        not, and what states are `made_by`."""
        self._unused, self._settled = unused, unused | made_by
        self._look_closely_at(self._settled)

    def _look_closely_at(self, names: Iterable[str]) -> None:
        """Lets no number pass at a glance."""
        for name in names:
            self._low[self._columns[name]] = math.inf

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            Place(self._rule.name, name).fail(AttributeError, f"group[{name!r}] = x", "an attribute of a group")
        object.__setattr__(self, name, value)

    def __getitem__(self, key: str) -> Any:
        if key in self._aliases:
            return tuple(self[name] for name in self._aliases[key])
        if key in self._fixed:
            return self._fixed[key]
        if key in self._schedules:
            return self._schedules[key]
        return float(self._row[self._columns[key]])

    def __setitem__(self, key: str, value: Any) -> None:
        column = self._columns.get(key)
        if column is None or key == CLIP or key in self._schedules or callable(value):
            at_once(self.setting(key, value))
        elif type(value) is float and self._low[column] < value < self._high[column]:  # as nearly always
            self._row[column] = value
        else:
            self._check_effect(key, value)
            self._row[column] = self.check(key, value)

    def setting(self, key: str, value: Any) -> list[Assignment]:
        """The assignments of a value, or of the values that an alias stands for, which has been checked."""
        if key in self._aliases:
            names = self._aliases[key]
            numbers = given_together(Place(self._rule.name, key), names, value)
            return self._setting_all(dict(zip(names, numbers, strict=True)))
        if key == CLIP:
            return self._setting_all(clip_limits(Place(self._rule.name, key), value))
        return self._setting(key, value)

    def _setting_all(self, values: Mapping[str, Any]) -> list[Assignment]:
        return [assignment for key, value in values.items() for assignment in self._setting(key, value)]

    def _setting(self, key: str, value: Any) -> list[Assignment]:
        if key != "params" and key not in self._intervals and key in {*self._rule.flags, *Options.__annotations__}:
            instead = "others: a rule of their own in a fu.Partition, or one more optimizer"
            expected = f"to be set for all tensors, as an argument of the optimizer ({instead})"
            Place(self._rule.name, key).fail(ValueError, expected, f"{value!r} for a group")
        if key == "params" or key not in self.intervals():
            Place(self._rule.name, key).unknown(KeyError, "hyperparameter", [*self._intervals, *self._aliases])
        self._check_effect(key, value)
        if key == FROZEN_UNTIL:
            return [self._freezing_until(value)]
        # The revision tells the engine, by a number never used before, that there are other schedules now.
        revised = (setitem, self._clock, REVISION, next(_revisions))
        if callable(value):
            return [(setitem, self._schedules, key, value), revised]
        number = (setitem, self._row, self._columns[key], self.check(key, value))
        return [number, (self._schedules.pop, key), revised] if key in self._schedules else [number]

    def _check_effect(self, key: str, value: Any) -> None:
        place, interval = Place(self._rule.name, key), self._intervals[key]
        if callable(value) and interval.low == interval.high:
            place.fail(ValueError, str(interval), repr(value))
        if self.is_off(key) and self.has_no_effect(key, value):
            place.fail(ValueError, f"the option {key}, given when the optimizer is made", f"{value!r} without it")
        if key in self._settled and (value if callable(value) else self.check(key, value)) != self[key]:
            expected = f"{self[key]!r}, as when the optimizer was made (a new one takes another)"
            place.fail(ValueError, expected, repr(value))

    def _freezing_until(self, value: Any) -> Assignment:
        if callable(value) or FROZEN_UNTIL in self._fixed:
            expected = "a number, set when the optimizer is made (later, see freeze and unfreeze)"
            raise TypeError(f"[{self._rule.name}] {FROZEN_UNTIL}: expected {expected}, received {value!r}")
        return self.thawing_at(self.check(FROZEN_UNTIL, value))

    def __delitem__(self, key: str) -> None:
        raise TypeError(f"[{self._rule.name}] {key}: hyperparameters can be set, not deleted")

    def __iter__(self) -> Iterator[str]:
        yield "params"
        yield from self._intervals

    def __len__(self) -> int:
        return 1 + len(self._intervals)

    def __repr__(self) -> str:
        return f"Group({dict(self)!r})"

    def intervals(self) -> Mapping[str, Interval]:
        """The names that may be set, and the values they may take."""
        return self._intervals

    def default(self, key: str) -> float:
        """What a hyperparameter is if nobody says."""
        shared = {FROZEN_UNTIL: 0.0, **{name: value for name, (value, _) in SHARED.items()}}
        return shared[key] if key in shared else self._rule.defaults[key]

    def is_off(self, key: str) -> bool:
        """Whether a hyperparameter is that of an option which is off."""
        return key in self._off

    def has_no_effect(self, key: str, value: Any) -> bool:
        """Whether no step would go by the value, which is another one than what is off stays."""
        stays = self._off.get(key, 0.0 if key in self._unused else None)
        return stays is not None and bool(value != stays)

    def check(self, key: str, value: Any) -> float:
        """`value` as a float within the range of `key`."""
        interval = self._intervals[key]
        if type(value) is float and value in interval:  # as nearly always
            return value
        return real(Place(self._rule.name, key), value, interval)

    def thawing_at(self, step: float) -> Assignment:
        """The assignment of a checked date."""
        return (setitem, self._fixed, FROZEN_UNTIL, step)

    def at(self, step: int) -> dict[str, float]:
        """All numbers after `step` steps, those that are fixed included."""
        return {
            key: self.check(key, value(step)) if callable(value) else value
            for key, value in self.items()
            if key != "params"
        }

    @property
    def numbers(self) -> dict[str, float]:
        """What the step reads: the numbers set, and those of schedules in the step that was looked up last."""
        return {name: float(self._row[column]) for name, column in self._columns.items()}

    @property
    def schedules(self) -> Mapping[str, Any]:
        """The values that are schedules."""
        return self._schedules


def clip_limits(place: Place, value: Any) -> dict[str, Any]:
    """What `clip_value` stands for, which is a number or (low, high); TypeError if it is no pair."""
    if not isinstance(value, (tuple, list)):
        return {CLIP: value, "clip_low": -math.inf, "clip_high": math.inf}
    if len(value) != len(CLIP_LIMITS):
        place.fail(TypeError, "a number ≥ 0, or two, (low, high)", repr(value))
    return {CLIP: math.inf, **dict(zip(CLIP_LIMITS, value, strict=True))}


def of_groups(
    rule: Rule, sources: Mapping[str, Any], settings: Settings, hypers: Mapping[str, Any]
) -> Iterator[tuple[list[str], Mapping[str, Any]]]:
    """The names of each group and its values: those of its own, of the options, of the rule."""
    options = {name: getattr(settings, name) for name in HYPERS if name not in CLIP_LIMITS}
    shared = {name: value for name, (value, _) in SHARED.items() if name not in CLIP_LIMITS}
    shared |= {name: value for name, value in options.items() if value is not None}
    without = off(settings)
    for names, overrides in sort_into_groups(rule.name, sources, settings.groups):
        for name, default in without.items():
            if overrides.get(name, default) != default:
                Place(rule.name, "groups").fail(ValueError, f"the option {name}, for a group sets it", "none")
        yield names, {**hypers, **shared, **overrides}


def off(settings: Settings) -> dict[str, float]:
    """The hyperparameters of options that are off, by which no step goes, and what they are by default."""
    shared = {name: hyper.default for name, hyper in HYPERS.items() if name not in CLIP_LIMITS}
    return {name: default for name, default in shared.items() if getattr(settings, name) is None}


class Scheduled(NamedTuple):
    """Where a schedule's value goes."""

    group: Group
    row: int
    key: str

    @property
    def interval(self) -> Interval:
        """The values that it may have."""
        return self.group.intervals()[self.key]


class Hypers:
    """The groups of an optimizer and the tables of their schedules."""

    def __init__(
        self,
        rule: Rule,
        settings: Settings,
        specs: Iterable[tuple[list[str], Mapping[str, Any]]],
        clock: Any,
    ) -> None:
        self.rule = rule
        specs = list(specs)
        self._clock, self._revisions = clock, clock.data
        self._values = np.zeros((len(specs), len(rule.hypers) + len(SHARED)))
        intervals, without = settings.intervals(rule), off(settings)
        self.groups = [
            Group(rule, intervals, names, values, row, clock, without)
            for (names, values), row in zip(specs, self._values, strict=True)
        ]
        self._places: list[list[Scheduled]] = []  # of each schedule
        self._schedules: list[Any] = []
        self.impure: list[int] = []  # those whose values depend on more than the step
        self.given = self._collect()

    def column(self, key: str) -> NDArray[np.float64]:
        """The numbers of a hyperparameter that is no schedule, group by group; checked ones can be written there."""
        return self._values[:, list(self.rule.hypers).index(key)]

    def flags(self, given: Mapping[str, bool]) -> dict[str, bool]:
        """The flags given, and those that a hyperparameter switches on in some group."""
        flags = {name: switch(Place(self.rule.name, name), given.get(name, False)) for name in self.rule.flags}
        return flags | {flag: flags[flag] or self._used(hyper) for flag, hyper in self.rule.flag_hypers.items()}

    def _used(self, hyper: str) -> bool:
        """Whether a hyperparameter is other than 0 in some group, or scheduled."""
        return any(callable(group[hyper]) or group[hyper] != 0 for group in self.groups)

    def settle(self, flags: Mapping[str, bool]) -> None:
        """The optimizer is made with these flags: from now on groups refuse what would need others."""
        unused = frozenset(hyper for flag, hyper in self.rule.flag_hypers.items() if not flags[flag])
        for group in self.groups:
            group.settle(unused, self.rule.made_by)

    def restoring(self, numbers: Sequence[Mapping[str, float]]) -> list[Assignment]:
        """The assignments of checked numbers for each group; what is scheduled now stays so."""
        values, dates = self._values.copy(), []
        for row, group, given in zip(values, self.groups, numbers, strict=True):
            columns = list(group.intervals())
            for key, number in given.items():
                if key == FROZEN_UNTIL:
                    dates.append(group.thawing_at(number))
                else:
                    row[columns.index(key)] = number
        return [(setitem, self._values, ..., values), *dates]

    def prepare(self, step: int, back: int = 0) -> Given:
        """What an engine reads in the step after `step` steps, and in the `back` steps before.

        Scheduled numbers are checked: one out of range is a ValueError that names it, and nothing has changed.
        """
        if self.given.revision != self._revisions[REVISION]:
            self.given = self._collect()
        first = max(step - back, 0) if back else step
        for k, covered in enumerate(self._covered):
            if first not in covered or step not in covered:
                (self._ask if k in self.impure else self._look_ahead)(k, first, step)
        return self.given

    def forget(self) -> None:
        """A value that may be another one by now, though the step is the same, is asked for again."""
        for k in self.impure:
            self._covered[k] = NONE

    def _collect(self) -> Given:
        revision = int(self._clock[REVISION])  # first, so that what changes from here on is seen
        places: dict[int, list[Scheduled]] = {}  # by id of the schedule
        self._schedules = []
        for row, group in enumerate(self.groups):
            for key, schedule in list(group.schedules.items()):
                if id(schedule) not in places:
                    self._schedules.append(schedule)
                places.setdefault(id(schedule), []).append(Scheduled(group, row, key))
        self._places = [places[id(schedule)] for schedule in self._schedules]
        self._covered = [NONE] * len(self._schedules)  # the steps whose values are in its table
        self.impure = [k for k, schedule in enumerate(self._schedules) if not _is_pure(schedule)]
        tables = np.zeros((len(self._schedules), AHEAD))
        schedules = np.zeros(len(tables), records.SCHEDULE)
        schedules["values"] = memory.address(tables) + tables.strides[0] * np.arange(len(tables))
        links = [
            (place.row, list(place.group.intervals()).index(place.key), k)
            for k, places_of in enumerate(self._places)
            for place in places_of
        ]
        self._firsts, self._counts = schedules["first"].data, schedules["count"].data
        self._tables: list[Any] = [table.data for table in tables]
        return Given(self._values, schedules, np.array(links, records.LINK), tables, revision)

    def _look_ahead(self, k: int, first: int, step: int) -> None:
        """Works out the values from `first` on; all of them up to `step` are right, or this raises."""
        places = self._places[k]
        values = np.asarray(self._schedules[k](np.arange(first, first + AHEAD)), np.float64)
        right = np.logical_and.reduce([place.interval.holds(values) for place in places])
        found = AHEAD if right.all() else int(np.argmin(right))
        if found <= step - first:
            _checked(values[found].item(), places)
        self._counts[k] = 0  # nobody reads half a table
        self.given.tables[k, :found] = values[:found]
        self._cover(k, first, found)

    def _ask(self, k: int, first: int, step: int) -> None:
        """Asks for the values from `first` to `step`, one by one; all of them are right, or this raises."""
        schedule, places, table = self._schedules[k], self._places[k], self._tables[k]
        self._counts[k] = 0
        for at in range(first, step + 1):
            table[at - first] = _checked(schedule(at), places)
        self._cover(k, first, step + 1 - first)

    def _cover(self, k: int, first: int, count: int) -> None:
        """Makes a schedule's table that of so many steps, from `first` on."""
        self._firsts[k] = first
        self._counts[k] = count
        self._covered[k] = range(first, first + count)


def _is_pure(schedule: Any) -> bool:
    return isinstance(schedule, Schedule) and schedule.pure


def _checked(value: Any, places: list[Scheduled]) -> float:
    for place in places:
        number = place.group.check(place.key, value)
    return number
