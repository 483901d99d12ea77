"""A schedule that follows a metric."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import starmap
from typing import Annotated, Any, Literal

import numpy as np

from fastupdate.arrays.numbers import BELOW_ONE, COUNT_OR_ZERO, NON_NEGATIVE, Interval, integer, real
from fastupdate.schedules.base import Array, CountOrZero, Fraction, NonNegative, Stateful, one_of

METRIC = Interval(infinite=True)


@dataclass(slots=True)
class plateau(Stateful):
    """A value multiplied by `factor`, but never below `min_value`, when a metric stops improving.

    ``update(metric)``, once per evaluation, counts metrics that do not beat the best one by the `threshold`: below
    best·(1 - threshold) in mode "min", above best·(1 + threshold) in mode "max"; below best - threshold and above
    best + threshold with threshold_mode="abs". More than `patience` in a row lower the value; the next `cooldown`
    updates then count none. Equals torch ReduceLROnPlateau with the same arguments, min_lr=min_value and eps=0. A NaN
    metric raises ValueError and changes nothing.
    """

    start: NonNegative
    factor: Fraction = 0.1
    patience: CountOrZero = 10
    threshold: NonNegative = 1e-4
    mode: Annotated[Literal["min", "max"], one_of("min", "max")] = "min"
    cooldown: CountOrZero = 0
    min_value: NonNegative = 0.0
    threshold_mode: Annotated[Literal["rel", "abs"], one_of("rel", "abs")] = "rel"
    _value: float = field(init=False, repr=False)
    _best: float | None = field(init=False, repr=False, default=None)
    _bad: int = field(init=False, repr=False, default=0)
    _cooling: int = field(init=False, repr=False, default=0)

    def _check(self) -> None:
        if self.threshold_mode == "rel":
            real(self._place("threshold"), self.threshold, BELOW_ONE)
        if self.min_value > self.start:
            self._place("min_value").fail(ValueError, f"at most start = {self.start}", repr(self.min_value))
        self._value = self.start

    def _at(self, t: Array) -> Array:
        """The current value, whatever the steps."""
        return np.full_like(t, self._value)

    @property
    def pure(self) -> bool:
        return False

    def update(self, metric: float) -> None:
        """Takes the latest metric into account."""
        metric = real(self._place("metric"), metric, METRIC)
        value, cooling = self._value, self._cooling
        best, bad = (metric, 0) if self._improves(metric) else (self._best, self._bad + 1)
        if cooling:
            cooling, bad = cooling - 1, 0
        if bad > self.patience:
            value, cooling, bad = max(value * self.factor, self.min_value), self.cooldown, 0
        self._become(value, best, bad, cooling)

    def _become(self, value: float, best: float | None, bad: int, cooling: int) -> None:
        values = ((self, "_value", value), (self, "_best", best), (self, "_bad", bad), (self, "_cooling", cooling))
        deque(starmap(setattr, values), maxlen=0)  # by one call of C: all, whatever a signal handler raises

    def _improves(self, metric: float) -> bool:
        sign = -1 if self.mode == "min" else 1
        if self._best is None:
            return sign * metric > -math.inf
        margin = sign * self.threshold
        bar = self._best * (1 + margin) if self.threshold_mode == "rel" else self._best + margin
        return sign * metric > sign * bar

    def state_dict(self) -> dict[str, Any]:
        return {"value": self._value, "best": self._best, "bad": self._bad, "cooling": self._cooling}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._check_keys(state)
        value = real(self._place("value"), state["value"], NON_NEGATIVE)
        best = None if state["best"] is None else real(self._place("best"), state["best"], METRIC)
        bad, cooling = (integer(self._place(name), state[name], COUNT_OR_ZERO) for name in ("bad", "cooling"))
        self._become(value, best, bad, cooling)
