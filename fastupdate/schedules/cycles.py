"""Schedules that rise and fall: restarts, cycles, one cycle."""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np

from fastupdate.arrays.numbers import integer
from fastupdate.schedules.base import (
    CURVES,
    Array,
    Count,
    Fraction,
    Kind,
    Positive,
    Schedule,
    Switch,
    Value,
    check_ends,
    fraction_done,
    half_wave,
    linear_curve,
    one_of,
)

CyclicMode: TypeAlias = Annotated[
    Literal["triangular", "triangular2", "exp_range"], one_of("triangular", "triangular2", "exp_range")
]


@dataclass(frozen=True, slots=True)
class cosine_restarts(Schedule):
    """``lr(t) = end + ½(start - end)·decayⁱ(1 + cos(π c/L))``, c steps into cycle i, which has L.

    The first cycle has `period` steps, each next one `factor` times as many, without end; each restarts at `decay`
    times the height (Loshchilov & Hutter 2017, SGDR, eq. 5). Equals torch CosineAnnealingWarmRestarts(T_0=period,
    T_mult=factor, eta_min=end), which counts epochs and takes fractions of them where this counts steps, and Keras
    CosineDecayRestarts(start, period, t_mul=factor, m_mul=decay, alpha=end/start); optax.sgdr_schedule is a join of
    such cycles.
    """

    start: Value
    period: Count
    factor: Count = 1
    end: Value = 0.0
    decay: Positive = 1.0

    def _at(self, t: Array) -> Array:
        cycle, done = self._cycle(t)
        height = half_wave(done)
        return linear_curve(self.end, self.start, height if self.decay == 1 else height * np.power(self.decay, cycle))

    def _cycle(self, t: Array) -> tuple[Array, Array]:
        """Which cycle each step is in, and the fraction of it that is done."""
        if self.factor == 1:
            return t // self.period, t % self.period / self.period
        # Exact starts, because a logarithm can misplace the steps next to a restart.
        starts, length = [0], self.period
        while starts[-1] <= t.max(initial=0.0):
            starts.append(starts[-1] + length)
            length *= self.factor
        edges = np.array(starts, dtype=np.float64)
        cycle = np.searchsorted(edges, t, side="right") - 1
        return cycle.astype(np.float64), (t - edges[cycle]) / np.diff(edges)[cycle]


@dataclass(frozen=True, slots=True)
class cyclic(Schedule):
    """From low to peak in `up` steps and back in `down` (None: as many), again and again (Smith 2017, Cyclical Rates).

    What exceeds low halves from cycle to cycle in mode "triangular2", and shrinks by `gamma` each step in mode
    "exp_range". Equals torch CyclicLR(low, peak, up, down, mode, gamma), whose momentum is
    cyclic(max_momentum, base_momentum, up, down, mode, gamma).
    """

    low: Value
    peak: Value
    up: Count
    down: int | None = None
    mode: CyclicMode = "triangular"
    gamma: Positive = 1.0

    def _check(self) -> None:
        self._set("down", self.up if self.down is None else integer(self._place("down"), self.down))

    def _at(self, t: Array) -> Array:
        down = self.down or self.up
        done = t % (self.up + down)
        height = np.minimum(done / self.up, (self.up + down - done) / down)
        if self.mode == "triangular2":
            height *= np.power(0.5, t // (self.up + down))
        if self.mode == "exp_range":
            height *= np.power(self.gamma, t)
        return linear_curve(self.low, self.peak, height)


@dataclass(frozen=True, slots=True)
class one_cycle(Schedule):
    """Up from ``low = peak/div_factor`` to peak, then down to ``low/final_div_factor`` (Smith 2018, one-cycle).

    ``lr(t) = kind(low, peak; t/r)`` until ``r = pct_start·steps - 1``, then ``kind(peak, low/final_div_factor;
    (t - r)/(steps - 1 - r))``: the last of the `steps` updates, at t = steps - 1, has the end value. Equals torch
    OneCycleLR(peak, steps, pct_start=…, anneal_strategy=kind, div_factor=…, final_div_factor=…), whose momentum is
    one_cycle(base, steps, div_factor=base/max, final_div_factor=1). With `three_phase` the way down to low takes as
    long as the way up, and the rest leads from low to the end. optax.cosine_onecycle_schedule(steps, peak) turns and
    ends a step later: ``join([cosine(low, r + 1, peak), cosine(peak, steps - r - 1, low/1e4)], [r + 1])``.
    """

    peak: Value
    steps: Count
    pct_start: Fraction = 0.3
    div_factor: Positive = 25.0
    final_div_factor: Positive = 1e4
    kind: Kind = "cosine"
    three_phase: Switch = False

    def _check(self) -> None:
        place, turn = self._place("pct_start"), self.pct_start * self.steps - 1
        if turn <= 0:
            place.fail(ValueError, f"above 1/steps = {1 / self.steps}", repr(self.pct_start))
        if self.three_phase and 2 * turn >= self.steps - 1:
            most = (self.steps + 1) / (2 * self.steps)
            place.fail(ValueError, f"below {most:g} for three phases", repr(self.pct_start))
        check_ends(self, self.kind, peak=self.peak)

    def _at(self, t: Array) -> Array:
        curve = CURVES[self.kind]
        low, turn = self.peak / self.div_factor, self.pct_start * self.steps - 1
        up = curve(low, self.peak, fraction_done(t, turn))
        end, last = low / self.final_div_factor, self.steps - 1
        if not self.three_phase:
            return np.where(t <= turn, up, curve(self.peak, end, fraction_done(t - turn, last - turn)))
        down = curve(self.peak, low, fraction_done(t - turn, turn))
        out = curve(low, end, fraction_done(t - 2 * turn, last - 2 * turn))
        return np.where(t <= turn, up, np.where(t <= 2 * turn, down, out))
