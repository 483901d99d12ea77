"""Numbers at the border: converted first and checked afterwards, wherever they come from.

A number is one of Python's or NumPy's, or a 0-d array of any library (as optax' schedules return). Truth values and
text are none. What a 0-d array holds is read once, when it is handed in.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from fastupdate.arrays.place import Place


class Interval(NamedTuple):
    """The numbers from `low` to `high`; `open`: high is not one of them; `above`: low is not; `infinite`: infinity is;
    `truth`: it is a switch, 0 or 1, which truth values stand for; `whole`: fractions are not.

    A side that is infinite has no bound; infinity itself lies within only if `infinite`. NaN never does.
    """

    low: float = -math.inf
    high: float = math.inf
    open: bool = False
    above: bool = False
    infinite: bool = False
    truth: bool = False
    whole: bool = False

    def __contains__(self, x: object) -> bool:
        return isinstance(x, (int, float)) and bool(self.holds(x))

    def holds(self, x: Any) -> Any:
        """Which numbers of an array, or whether a number, lie within."""
        held = (self.low < x if self.above else self.low <= x) & (x < self.high if self.open else x <= self.high)
        held = held if self.infinite else held & (abs(x) < math.inf)
        return held & (x % 1 == 0) if self.whole else held

    def words(self, noun: str) -> str:
        """What messages say is expected."""
        if self.high < math.inf:
            return f"{noun} in {'(' if self.above else '['}{self.low:g}, {self.high:g}{')' if self.open else ']'}"
        return noun if self.low == -math.inf else f"{noun} {'>' if self.above else '≥'} {self.low:g}"

    def __str__(self) -> str:
        if self.truth:
            return "True or False"
        if self.whole:
            return self.words("an integer")
        return self.words("a number" if self.high < math.inf or self.infinite else "a finite number")


FINITE = Interval()
POSITIVE = Interval(0.0, above=True)
NON_NEGATIVE = Interval(0.0)
LIMIT = Interval(0.0, infinite=True)
GROWTH = Interval(1.0, infinite=True)
FLOOR = Interval(open=True, infinite=True)
CEILING = Interval(above=True, infinite=True)
SIZE = Interval(0.0, above=True, infinite=True)
BELOW_ONE = Interval(0.0, 1.0, open=True)
FRACTION = Interval(0.0, 1.0)
OPEN_FRACTION = Interval(0.0, 1.0, open=True, above=True)
SHARE = Interval(0.0, 1.0, above=True)
SWITCH = Interval(0.0, 1.0, truth=True, whole=True)
COUNT = Interval(1, whole=True)
COUNT_OR_ZERO = Interval(0, whole=True)


def real(place: Place, value: Any, interval: Interval = FINITE) -> float:
    """`value` as a float; TypeError if it is no number, ValueError if it lies outside of the interval.

    Of a switch ValueError alone: see `switch`.
    """
    if interval.truth:
        return float(switch(place, value))
    number = _plain(value)
    if not isinstance(number, Real):
        place.fail(TypeError, str(interval), repr(value))
    try:
        converted = float(number)
    except OverflowError:
        converted = math.nan
    if converted not in interval:
        place.fail(ValueError, str(interval), repr(value))
    return converted


def figure(place: Place, value: Any) -> float:
    """`value` as a float, which may be NaN or infinite: something measured. TypeError if it is no number."""
    number = _plain(value)
    if not isinstance(number, Real):
        place.fail(TypeError, "a number", repr(value))
    return float(number)


def integer(place: Place, value: Any, interval: Interval = COUNT) -> int:
    """`value` as an int; TypeError if it is no integer (2.0 is none), ValueError if it lies outside of the interval."""
    number = _plain(value)
    if not isinstance(number, Integral):
        place.fail(TypeError, interval.words("an integer"), repr(value))
    if int(number) not in interval:
        place.fail(ValueError, interval.words("an integer"), repr(value))
    return int(number)


def switch(place: Place, value: Any) -> bool:
    """`value` as a truth value, which it is or equals (NumPy's, 0 and 1); ValueError if it does not."""
    try:
        known = value in (False, True)
    except (TypeError, ValueError, RuntimeError):  # arrays of several elements
        known = False
    if not known:
        place.not_among((False, True), value)
    return bool(value)


def _plain(value: Any) -> Any:
    """What a 0-d array holds, or the value itself; None if it is a truth value, masked, or cannot be read."""
    if not isinstance(value, Real) and getattr(value, "shape", None) == () and hasattr(value, "item"):
        try:
            value = None if isinstance(value, np.ma.MaskedArray) else value.item()
        except (TypeError, ValueError, RuntimeError):  # JAX while it traces, torch's meta device
            return None
    return None if isinstance(value, bool) else value
