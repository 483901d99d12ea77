"""What every schedule is made of: checked arguments, the call, and the curves from one value to another."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import FrozenInstanceError, fields
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeAlias, cast, overload

import numpy as np
from numpy.typing import NDArray

from fastupdate.arrays.numbers import BELOW_ONE, COUNT_OR_ZERO, NON_NEGATIVE, POSITIVE, integer, real, switch
from fastupdate.arrays.place import Place

Array: TypeAlias = NDArray[np.float64]

# Fields of a schedule: each is checked, and converted, by what its annotation carries.
Value: TypeAlias = Annotated[float, real]
Positive: TypeAlias = Annotated[float, partial(real, interval=POSITIVE)]
NonNegative: TypeAlias = Annotated[float, partial(real, interval=NON_NEGATIVE)]
Fraction: TypeAlias = Annotated[float, partial(real, interval=BELOW_ONE)]
Count: TypeAlias = Annotated[int, integer]
Switch: TypeAlias = Annotated[bool, switch]
CountOrZero: TypeAlias = Annotated[int, partial(integer, interval=COUNT_OR_ZERO)]


def one_of(*words: str) -> Callable[[Place, Any], str]:
    """A check that a field is one of these words."""

    def check(place: Place, value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            place.not_among(words, value, str)
        return value

    return check


def _check_increasing(place: Place, steps: Any) -> tuple[int, ...]:
    expected = "strictly increasing integers ≥ 1"
    if not isinstance(steps, Iterable):
        place.fail(TypeError, expected, repr(steps))
    counts = tuple(integer(place, step) for step in steps)
    if any(a >= b for a, b in pairwise(counts)):
        place.fail(ValueError, expected, repr(counts))
    return counts


Increasing: TypeAlias = Annotated[Sequence[int], _check_increasing]


class Schedule(ABC):
    """Base of the schedules, which are dataclasses: checks fields and step, then evaluates ``_at`` in float64."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """Shows by help() the type of each field, not how it is checked. With slots, a dataclass is made twice."""
        if init := vars(cls).get("__init__"):
            checked = init.__annotations__.items()
            init.__annotations__ = {name: t.__origin__ if hasattr(t, "__metadata__") else t for name, t in checked}
        if "__setattr__" in vars(cls):  # that of frozen dataclasses, which raises other errors in a class with slots
            cls.__setattr__ = _refuse  # type: ignore[method-assign,assignment]

    @abstractmethod
    def _at(self, t: Array) -> Array:
        """The values at the steps t, a contiguous 1-d array."""

    def _check(self) -> None:  # noqa: B027 (most have nothing to add)
        """What the fields must be together; nothing unless overridden."""

    def __post_init__(self) -> None:
        # Needs the annotations as objects: schedules must not import `annotations` from __future__.
        for item in fields(cast(Any, self)):
            for check in getattr(item.type, "__metadata__", ()):
                self._set(item.name, check(self._place(item.name), getattr(self, item.name)))
        self._check()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _place(self, name: str) -> Place:
        return Place(type(self).__name__, name)

    @overload
    def __call__(self, step: int) -> float: ...
    @overload
    def __call__(self, step: NDArray[np.integer[Any]]) -> Array: ...
    def __call__(self, step: int | NDArray[np.integer[Any]]) -> float | Array:
        is_array = isinstance(step, np.ndarray)
        steps = np.asarray(step)
        if steps.dtype.kind not in "iu" or (steps.ndim and not is_array):
            self._place("step").fail(TypeError, "an integer or a NumPy array of integers", repr(step))
        if (steps < 0).any():
            self._place("step").fail(ValueError, "non-negative integers", repr(step))
        # One 1-d path for both: NumPy's scalar and array loops may round cos, exp and pow differently.
        with np.errstate(over="ignore", under="ignore"):  # what grows for ever becomes infinite, and is refused as lr
            values = self._at(steps.astype(np.float64, order="C").reshape(-1))
        return values.reshape(steps.shape) if is_array else float(values[0])

    @property
    def pure(self) -> bool:
        """Whether the values depend on the step alone, so that they may be worked out ahead."""
        return True


def _refuse(self: Schedule, name: str, value: object) -> None:
    self._place(name).fail(
        FrozenInstanceError, "a new schedule (opt.lr = it), for this one stays as it is", repr(value)
    )


class Stateful(Schedule):
    """Base of the schedules that depend, or that a part of them may depend, on more than step and arguments."""

    __slots__ = ()

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The state as plain numbers; the arguments are not part of it. Empty where there is none."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` gave; a wrong state raises TypeError or ValueError and changes nothing."""

    def _check_keys(self, state: Mapping[str, Any]) -> None:
        own = self.state_dict()
        if not isinstance(state, Mapping) or set(state) != set(own):
            expected = f"the keys {', '.join(own)}" if own else "an empty mapping"
            received = repr(list(state) if isinstance(state, Mapping) else state)
            self._place("state").fail(ValueError, expected, received)


def linear_curve(start: float, end: float, done: Array) -> Array:
    """Straight from start to end; `done` runs from 0 to 1."""
    return start * (1 - done) + end * done


def cosine_curve(start: float, end: float, done: Array) -> Array:
    """Half a wave from start to end."""
    return linear_curve(end, start, half_wave(done))


def half_wave(done: Array) -> Array:
    """From 1 down to 0."""
    return 0.5 * (1 + np.cos(np.pi * done))


def exponential_curve(start: float, end: float, done: Array) -> Array:
    """By equal factors from start to end."""
    return np.power(start, 1 - done) * np.power(end, done)


def fraction_done(t: Array, steps: float | Array) -> Array:
    """The fraction of `steps` completed, from 0 to 1."""
    return np.clip(t / steps, 0.0, 1.0)


CURVES = {"linear": linear_curve, "cosine": cosine_curve, "exponential": exponential_curve}
Kind: TypeAlias = Annotated[Literal["linear", "cosine", "exponential"], one_of(*CURVES)]


def check_ends(owner: Schedule, kind: str, **ends: float) -> None:
    """An exponential curve has no end at or below 0."""
    for name, value in ends.items():
        if kind == "exponential" and value <= 0:
            owner._place(name).fail(ValueError, "a number above 0 for kind='exponential'", repr(value))
