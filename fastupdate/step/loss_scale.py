"""The dynamic loss scale: as large as gradients in narrow types allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastupdate.arrays.numbers import COUNT_OR_ZERO, Interval, integer, real
from fastupdate.arrays.place import Closed, Place
from fastupdate.step.report import Report

SCALES = Interval(2.0**-126, 2.0**126)  # float32 holds them and their inverses
GROWTH = Interval(1.0, above=True)
BACKOFF = Interval(0.0, 1.0, open=True, above=True)


class LossScale(Closed):
    """What to multiply the loss by, as torch's `GradScaler` finds it.

    It is lowered when a gradient is not finite, and raised after `growth_interval` steps in a row whose are.

        scale = fu.LossScale()
        opt = fu.AdamW(params, nonfinite="skip")
        for x, y in batches:
            grads = …  # of scale.value times the loss
            scale.update(opt.step(grads, loss_scale=scale.value))

    init             the first scale, in [2⁻¹²⁶, 2¹²⁶], which it never leaves
    growth_factor    above 1
    backoff_factor   between 0 and 1
    growth_interval  steps

    `value` is the scale of the next step. Source: Micikevicius et al., Mixed Precision Training (ICLR 2018), section
    3.2; the numbers are torch's.
    """

    def __init__(
        self,
        init: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        self._value = real(_place("init"), init, SCALES)
        self._growth = real(_place("growth_factor"), growth_factor, GROWTH)
        self._backoff = real(_place("backoff_factor"), backoff_factor, BACKOFF)
        self._interval = integer(_place("growth_interval"), growth_interval)
        self._good = 0  # steps since the scale changed last

    @property
    def value(self) -> float:
        """The scale of the next step."""
        return self._value

    @value.setter
    def value(self, value: float) -> None:
        self._set(real(_place("value"), value, SCALES), 0)

    def update(self, report: Report) -> float:
        """Takes what `opt.step()` returned into account; returns the scale of the next step.

        ValueError: the optimizer does not count gradients that are not finite.
        """
        if report.nonfinite is None:
            expected = "one of an optimizer with nonfinite='skip'"
            _place("report").fail(ValueError, expected, "one that does not count non-finite gradients")
        value, good = self.value, self._good + 1
        if report.nonfinite:
            value, good = max(value * self._backoff, SCALES.low), 0
        elif good == self._interval:
            value, good = min(value * self._growth, SCALES.high), 0
        self._set(value, good)
        return value

    def _set(self, value: float, good: int) -> None:
        vars(self).update(_value=value, _good=good)  # both, whatever a signal handler raises

    def state_dict(self) -> dict[str, Any]:
        """What the next scales depend on beside the arguments."""
        return {"value": self.value, "good": self._good}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave; a wrong state raises TypeError or ValueError and changes nothing."""
        if not isinstance(state, Mapping) or set(state) != {"value", "good"}:
            _place("state").fail(ValueError, "the keys value, good", repr(state))
        value = real(_place("value"), state["value"], SCALES)
        self._set(value, integer(_place("good"), state["good"], COUNT_OR_ZERO))

    def __repr__(self) -> str:
        factors = f"growth_factor={self._growth:g}, backoff_factor={self._backoff:g}"
        return f"LossScale(init={self.value:g}, {factors}, growth_interval={self._interval})"


def _place(argument: str) -> Place:
    return Place("LossScale", argument)
