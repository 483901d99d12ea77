"""Schedules that go one way: constant, falling, or up and then down once."""

from dataclasses import KW_ONLY, dataclass
from typing import cast

import numpy as np

from fastupdate.arrays.numbers import FINITE, POSITIVE, real
from fastupdate.schedules.base import (
    CURVES,
    Array,
    Count,
    CountOrZero,
    Increasing,
    Kind,
    NonNegative,
    Positive,
    Schedule,
    Switch,
    Value,
    check_ends,
    fraction_done,
    half_wave,
    linear_curve,
)


@dataclass(frozen=True, slots=True)
class constant(Schedule):
    """``lr(t) = value``. Equals optax.constant_schedule(value)."""

    value: Value

    def _at(self, t: Array) -> Array:
        return np.full_like(t, self.value)


@dataclass(frozen=True, slots=True)
class step_decay(Schedule):
    """``lr(t) = start · drop^⌊t/every⌋``.

    Equals torch StepLR(every, gamma=drop) and optax.exponential_decay(start, every, drop, staircase=True).
    """

    start: Value
    drop: Positive
    every: Count

    def _at(self, t: Array) -> Array:
        return self.start * np.power(self.drop, t // self.every)


@dataclass(frozen=True, slots=True)
class multi_step(Schedule):
    """``lr(t) = start · drop^(number of milestones ≤ t)``.

    Equals torch MultiStepLR(milestones, gamma=drop) and optax.piecewise_constant_schedule(start, {milestone: drop, …}).
    """

    start: Value
    milestones: Increasing
    drop: Positive = 0.1

    def _at(self, t: Array) -> Array:
        return self.start * np.power(self.drop, np.searchsorted(self.milestones, t, side="right").astype(np.float64))


@dataclass(frozen=True, slots=True)
class exponential(Schedule):
    """``lr(t) = start · exp(-rate·t)`` or ``lr(t) = start · gamma^t``: give exactly one of `rate` and `gamma`.

    The gamma form is torch ExponentialLR(gamma) and optax.exponential_decay(start, 1, gamma); the rate form is theirs
    with gamma = exp(-rate).
    """

    start: Value
    _: KW_ONLY
    rate: float | None = None
    gamma: float | None = None

    def _check(self) -> None:
        if (self.rate is None) == (self.gamma is None):
            self._place("rate, gamma").fail(ValueError, "exactly one of the two", repr((self.rate, self.gamma)))
        name, interval = ("rate", FINITE) if self.gamma is None else ("gamma", POSITIVE)
        self._set(name, real(self._place(name), getattr(self, name), interval))

    def _at(self, t: Array) -> Array:
        return self.start * (np.exp(-self.rate * t) if self.rate is not None else np.power(cast(float, self.gamma), t))


@dataclass(frozen=True, slots=True)
class inverse_time(Schedule):
    """``lr(t) = start/(1 + rate·t/every)``; with `staircase`, ``start/(1 + rate·⌊t/every⌋)``.

    Equals Keras InverseTimeDecay(start, every, rate, staircase) and torch LambdaLR of the formula.
    """

    start: Value
    rate: NonNegative
    every: Count = 1
    staircase: Switch = False

    def _at(self, t: Array) -> Array:
        return self.start / (1 + self.rate * (t // self.every if self.staircase else t / self.every))


@dataclass(frozen=True, slots=True)
class inverse_sqrt(Schedule):
    """``lr(t) = peak · min((t+1)/warmup, √(warmup/(t+1)))`` (Vaswani et al. 2017, Attention Is All You Need, eq. 3).

    The paper counts steps from 1, hence t + 1; its peak is (d_model·warmup)^-½, at t = warmup - 1. torch and optax have
    no such schedule: it equals torch LambdaLR of the paper's formula.
    """

    peak: Value
    warmup: Count

    def _at(self, t: Array) -> Array:
        return self.peak * np.minimum((t + 1) / self.warmup, np.sqrt(self.warmup / (t + 1)))


@dataclass(frozen=True, slots=True)
class rising_beta2(Schedule):
    """``β₂(t) = 1 - (t+1)^(-power)``: from 0 up to 1, for the argument beta2, or the second of betas.

    Shazeer & Stern 2018, Adafactor, §7.2; Chowdhery et al. 2022, PaLM, §5, with power 0.8. Both count steps from 1,
    hence t + 1. torch and optax have it within Adafactor alone: it equals torch LambdaLR of the formula.
    """

    power: Positive = 0.8

    def _at(self, t: Array) -> Array:
        return 1 - np.power(t + 1, -self.power)


@dataclass(frozen=True, slots=True)
class linear(Schedule):
    """``lr(t) = start + (end - start)·t/steps``, then end.

    Equals optax.linear_schedule(start, end, steps) and torch LinearLR(1, end_factor=end/start, total_iters=steps).
    """

    start: Value
    steps: Count
    end: Value = 0.0

    def _at(self, t: Array) -> Array:
        return linear_curve(self.start, self.end, fraction_done(t, self.steps))


@dataclass(frozen=True, slots=True)
class polynomial(Schedule):
    """``lr(t) = end + (start - end)(1 - t/steps)^power``, then end; with `cycle`, over the next multiple of `steps`.

    Equals optax.polynomial_schedule(start, end, power, steps), Keras PolynomialDecay(start, steps, end, power, cycle)
    and, with end = 0, torch PolynomialLR(steps, power).
    """

    start: Value
    steps: Count
    end: Value = 0.0
    power: Positive = 1.0
    cycle: Switch = False

    def _at(self, t: Array) -> Array:
        steps = self.steps * np.maximum(np.ceil(t / self.steps), 1) if self.cycle else self.steps
        return linear_curve(self.end, self.start, np.power(1 - fraction_done(t, steps), self.power))


@dataclass(frozen=True, slots=True)
class cosine(Schedule):
    """``lr(t) = end + (start - end)·(½(1 + cos(π t/steps)))^exponent``, then end.

    Loshchilov & Hutter 2017, SGDR, eq. 5, where the exponent is 1. Equals torch CosineAnnealingLR(T_max=steps,
    eta_min=end) up to `steps`, where torch's starts to rise again, and optax.cosine_decay_schedule(start, steps,
    alpha=end/start, exponent=exponent).
    """

    start: Value
    steps: Count
    end: Value = 0.0
    exponent: Positive = 1.0

    def _at(self, t: Array) -> Array:
        height = half_wave(fraction_done(t, self.steps))
        return linear_curve(self.end, self.start, height if self.exponent == 1 else np.power(height, self.exponent))


@dataclass(frozen=True, slots=True)
class warmup_stable_decay(Schedule):
    """Linear from start to peak in `warmup` steps, peak for `stable` steps, then `kind` to end in `decay` steps.

    Hu et al. 2024, MiniCPM, §4 (there `kind` is exponential). Equals optax.join_schedules([linear_schedule(start, peak,
    warmup), constant_schedule(peak), the decay], [warmup, warmup + stable]) and torch SequentialLR of the same three.
    """

    peak: Value
    warmup: CountOrZero
    stable: CountOrZero
    decay: Count
    end: Value = 0.0
    start: Value = 0.0
    kind: Kind = "linear"

    def _check(self) -> None:
        check_ends(self, self.kind, peak=self.peak, end=self.end)

    def _at(self, t: Array) -> Array:
        up = linear_curve(self.start, self.peak, fraction_done(t, max(self.warmup, 1)))
        down = CURVES[self.kind](self.peak, self.end, fraction_done(t - self.warmup - self.stable, self.decay))
        return np.where(t < self.warmup, up, down)
