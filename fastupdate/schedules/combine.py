"""Schedules made of others, of plain functions, and of numbers."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, cast

import numpy as np

from fastupdate.arrays.numbers import real
from fastupdate.arrays.place import Place
from fastupdate.schedules.base import (
    CURVES,
    Array,
    Count,
    CountOrZero,
    Increasing,
    Kind,
    Schedule,
    Stateful,
    Value,
    check_ends,
    fraction_done,
)
from fastupdate.schedules.decay import constant


@dataclass(frozen=True, slots=True, repr=False)
class function(Stateful):
    """A plain function from step to number, called step by step."""

    of: Callable[[int], Any]

    def _at(self, t: Array) -> Array:
        name = getattr(self.of, "__name__", repr(self.of))
        return np.array([real(Place("schedules", f"{name}({step})"), self.of(step)) for step in map(int, t)])

    @property
    def pure(self) -> bool:
        return False

    def state_dict(self) -> dict[str, Any]:
        return dict(self.of.state_dict()) if hasattr(self.of, "state_dict") else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if hasattr(self.of, "load_state_dict"):
            self.of.load_state_dict(state)
        else:
            self._check_keys(state)

    def __repr__(self) -> str:
        return repr(self.of)


def as_schedule(place: Place, value: Any) -> Schedule:
    """A schedule as it is, a function wrapped, a number held for ever."""
    if isinstance(value, Schedule):
        return value
    if callable(value):
        return function(value)
    try:
        return constant(real(place, value))
    except TypeError:
        place.fail(TypeError, "a schedule, a function of the step or a number", repr(value))


def as_schedules(place: Place, values: Any) -> tuple[Schedule, ...]:
    """Each of several as a schedule."""
    if not isinstance(values, Iterable):
        place.fail(TypeError, "a sequence of schedules", repr(values))
    return tuple(as_schedule(place, value) for value in values)


Part: TypeAlias = Annotated[Schedule | Callable[[int], Any] | float, as_schedule]
Parts: TypeAlias = Annotated[Sequence[Schedule | Callable[[int], Any] | float], as_schedules]


class Combined(Stateful):
    """Base of the schedules made of others: pure if all of them are, with a state if one of them has one."""

    __slots__ = ()

    @abstractmethod
    def _parts(self) -> Mapping[str, Schedule]:
        """The others, by the names that they have in the state."""

    @property
    def pure(self) -> bool:
        return all(part.pure for part in self._parts().values())

    def state_dict(self) -> dict[str, Any]:
        states = {name: part.state_dict() for name, part in self._stateful().items()}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._check_keys(state)
        parts = self._stateful()
        for name, part_state in state.items():
            deepcopy(parts[name]).load_state_dict(part_state)  # raises before any of them has changed
        for name, part_state in state.items():
            parts[name].load_state_dict(part_state)

    def _stateful(self) -> dict[str, Stateful]:
        return {name: part for name, part in self._parts().items() if isinstance(part, Stateful)}


class Wrapped(Combined):
    """Base of those that are made of one other."""

    __slots__ = ()
    schedule: Any

    @property
    def _inner(self) -> Schedule:
        return cast(Schedule, self.schedule)

    def _parts(self) -> Mapping[str, Schedule]:
        return {"schedule": self._inner}


def _pieces(t: Array, edge: int, before: Callable[[Array], Array], after: Callable[[Array], Array]) -> Array:
    """One schedule before a step and another from it on; each is asked about its own steps alone."""
    values, early = np.empty_like(t), t < edge
    if early.any():
        values[early] = before(t[early])
    if not early.all():
        values[~early] = after(t[~early] - edge)
    return values


@dataclass(frozen=True, slots=True)
class warmup(Wrapped):
    """From start to ``target = schedule(0)`` in `steps` steps, then ``schedule(t - steps)``; a number is constant.

    With x = t/steps: linear ``start + (target - start)x``, cosine ``target + ½(start - target)(1 + cos πx)``,
    exponential ``start·(target/start)^x`` (start > 0). Equals optax.join_schedules([linear_schedule(start, target,
    steps), schedule], [steps]) and torch SequentialLR([LinearLR(start/target, total_iters=steps), schedule], [steps]);
    for the exponential kind the first part is optax.exponential_decay(start, steps, target/start).
    """

    schedule: Part
    steps: Count
    kind: Kind = "linear"
    start: Value = 0.0

    def _check(self) -> None:
        if self.kind == "exponential":
            check_ends(self, self.kind, start=self.start, schedule=self._inner(0))

    def _at(self, t: Array) -> Array:
        return _pieces(t, self.steps, self._rise, self._inner._at)

    def _rise(self, t: Array) -> Array:
        return CURVES[self.kind](self.start, self._inner(0), fraction_done(t, self.steps))


@dataclass(frozen=True, slots=True)
class join(Combined):
    """``lr(t) = schedules[i](t - boundaries[i-1])``, i = number of boundaries ≤ t; a number is constant.

    Equals optax.join_schedules(schedules, boundaries) and torch SequentialLR(schedules, milestones=boundaries).
    """

    schedules: Parts
    boundaries: Increasing

    def _check(self) -> None:
        if len(self.schedules) != len(self.boundaries) + 1:
            expected = f"{len(self.boundaries) + 1} schedules for {len(self.boundaries)} boundaries"
            self._place("schedules").fail(ValueError, expected, str(len(self.schedules)))

    def _parts(self) -> Mapping[str, Schedule]:
        return {str(k): cast(Schedule, schedule) for k, schedule in enumerate(self.schedules)}

    def _at(self, t: Array) -> Array:
        values, piece = np.empty_like(t), np.searchsorted(self.boundaries, t, side="right")
        for k, (begin, schedule) in enumerate(zip((0, *self.boundaries), self._parts().values(), strict=True)):
            values[piece == k] = schedule._at(t[piece == k] - begin)
        return values


@dataclass(frozen=True, slots=True)
class scale(Wrapped):
    """``lr(t) = factor · schedule(t)``. Equals torch LambdaLR(schedule) on a base of `factor`; a number is constant."""

    schedule: Part
    factor: Value

    def _at(self, t: Array) -> Array:
        return self.factor * self._inner._at(t)


@dataclass(frozen=True, slots=True)
class clip(Wrapped):
    """``lr(t) = min(max(schedule(t), low), high)``: a floor, a ceiling, or both.

    Equals the end_value of optax.exponential_decay, as low where it falls and as high where it rises.
    """

    schedule: Part
    low: float | None = None
    high: float | None = None

    def _check(self) -> None:
        given = {name: getattr(self, name) for name in ("low", "high") if getattr(self, name) is not None}
        if not given:
            self._place("low, high").fail(ValueError, "a floor, a ceiling or both", "neither")
        for name, value in given.items():
            self._set(name, real(self._place(name), value))
        if len(given) == 2 and self.low > self.high:  # type: ignore[operator]
            self._place("low").fail(ValueError, f"at most high = {self.high}", repr(self.low))

    def _at(self, t: Array) -> Array:
        return np.clip(self._inner._at(t), self.low, self.high)


@dataclass(frozen=True, slots=True)
class swa(Wrapped):
    """``schedule(t)`` up to step `start`, then `kind` to `value` in `steps` steps, and `value` held.

    The rate of stochastic weight averaging (Izmailov et al. 2018). Equals torch SWALR(swa_lr=value,
    anneal_epochs=steps, anneal_strategy=kind) that takes over from `schedule` at step `start`; for the average itself
    see `ema_decay`.
    """

    schedule: Part
    start: CountOrZero
    value: Value
    steps: Count = 10
    kind: Kind = "cosine"

    def _check(self) -> None:
        if self.kind == "exponential":
            check_ends(self, self.kind, schedule=self._inner(self.start), value=self.value)

    def _at(self, t: Array) -> Array:
        return _pieces(t, self.start, self._inner._at, self._anneal)

    def _anneal(self, t: Array) -> Array:
        return CURVES[self.kind](self._inner(self.start), self.value, fraction_done(t, self.steps))
