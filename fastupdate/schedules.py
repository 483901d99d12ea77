"""Schedules: hyperparameters as pure functions of the step.

A schedule is called with the number of steps already completed: ``schedule(0)`` is the value of the first update (as in
optax, and as torch's ``last_epoch``). An int gives a float; an array of ints gives a float64 array of the same shape
and the same bits. Past its last step a schedule holds its end value. Schedules are immutable, hashable and picklable,
compare equal when their arguments do, and are built again by their repr. Values may be learning rates, momenta, decays:
any float. Wrong arguments raise TypeError or ValueError. ``plateau`` alone has state: it follows a metric.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from itertools import pairwise
from numbers import Integral, Real
from os import PathLike
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias, cast, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Schedule",
    "constant",
    "cosine",
    "cosine_restarts",
    "exponential",
    "inverse_sqrt",
    "join",
    "linear",
    "multi_step",
    "one_cycle",
    "plateau",
    "plot",
    "polynomial",
    "scale",
    "step_decay",
    "warmup",
    "warmup_stable_decay",
]

Array: TypeAlias = NDArray[np.float64]


def _message(label: str, expected: str, received: object) -> str:
    return f"{label}: expected {expected}, received {received!r}"


class _Number(NamedTuple):
    """What a number must be; calling it checks a value and gives the plain float or int."""

    expected: str
    accepts: type[Any]
    ok: Callable[[float], bool]

    def __call__(self, label: str, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, self.accepts):
            raise TypeError(_message(label, self.expected, value))
        if not self.ok(value):
            raise ValueError(_message(label, self.expected, value))
        return int(value) if self.accepts is Integral else float(value)


_finite = _Number("a finite number", Real, math.isfinite)
_positive = _Number("a finite number above 0", Real, lambda x: 0 < x < math.inf)
_non_negative = _Number("a finite number, 0 or above", Real, lambda x: 0 <= x < math.inf)
_count = _Number("a positive integer", Integral, lambda n: n > 0)
_count_or_zero = _Number("a non-negative integer", Integral, lambda n: n >= 0)
_metric = _Number("a number other than NaN", Real, lambda x: not math.isnan(x))

Value: TypeAlias = Annotated[float, _finite]
Positive: TypeAlias = Annotated[float, _positive]
NonNegative: TypeAlias = Annotated[float, _non_negative]
Fraction: TypeAlias = Annotated[float, _Number("a number in [0, 1)", Real, lambda x: 0 <= x < 1)]
Count: TypeAlias = Annotated[int, _count]
CountOrZero: TypeAlias = Annotated[int, _count_or_zero]


class _Checked:
    """Dataclass base: checks each Annotated field by its annotation, then what ``_check`` says of them together."""

    __slots__ = ()

    def __post_init__(self) -> None:
        # Needs the annotations as objects: this module must not import `annotations` from __future__.
        for item in fields(cast(Any, self)):
            for check in getattr(item.type, "__metadata__", ()):
                value = check(self._label(item.name), getattr(self, item.name))
                object.__setattr__(self, item.name, value)
        self._check()

    def _check(self) -> None:
        """Nothing to check unless overridden."""

    def _label(self, name: str) -> str:
        return f"[{type(self).__name__}] {name}"


class Schedule(_Checked, ABC):
    """Base of the pure schedules: checks the step (an integer, not negative), then evaluates ``_at`` in float64."""

    __slots__ = ()

    @abstractmethod
    def _at(self, t: Array) -> Array:
        """The values at the steps t, a contiguous 1-d array."""

    @overload
    def __call__(self, step: int) -> float: ...
    @overload
    def __call__(self, step: NDArray[np.integer[Any]]) -> Array: ...
    def __call__(self, step: int | NDArray[np.integer[Any]]) -> float | Array:
        is_array = isinstance(step, np.ndarray)
        steps = np.asarray(step)
        if steps.dtype.kind not in "iu" or (steps.ndim and not is_array):
            raise TypeError(_message(self._label("step"), "an integer or a NumPy array of integers", step))
        if (steps < 0).any():
            raise ValueError(_message(self._label("step"), "non-negative integers", step))
        # One 1-d path for both: NumPy's scalar and array loops may round cos, exp and pow differently.
        values = self._at(steps.astype(np.float64, order="C").reshape(-1))
        return values.reshape(steps.shape) if is_array else float(values[0])


def _linear(start: float, end: float, done: Array) -> Array:
    return start * (1 - done) + end * done


def _cosine(start: float, end: float, done: Array) -> Array:
    return _linear(end, start, 0.5 * (1 + np.cos(np.pi * done)))


def _exponential(start: float, end: float, done: Array) -> Array:
    return np.power(start, 1 - done) * np.power(end, done)


def _done(t: Array, steps: float) -> Array:
    """The fraction of `steps` completed, from 0 to 1."""
    return np.clip(t / steps, 0.0, 1.0)


_CURVES = {"linear": _linear, "cosine": _cosine, "exponential": _exponential}


def _check_kind(label: str, kind: str) -> str:
    if kind not in _CURVES:
        raise ValueError(_message(label, f"one of {', '.join(_CURVES)}", kind))
    return kind


Kind: TypeAlias = Annotated[Literal["linear", "cosine", "exponential"], _check_kind]


def _check_ends(owner: _Checked, kind: str, **ends: float) -> None:
    for name, value in ends.items():
        if kind == "exponential" and value <= 0:
            raise ValueError(_message(owner._label(name), "a number above 0 for kind='exponential'", value))


@dataclass(frozen=True, slots=True)
class constant(Schedule):
    """``lr(t) = value``. Equals optax.constant_schedule(value)."""

    value: Value

    def _at(self, t: Array) -> Array:
        return np.full_like(t, self.value)


def _check_schedule(label: str, value: Schedule | float) -> Schedule:
    return value if isinstance(value, Schedule) else constant(_finite._replace(expected="a schedule")(label, value))


def _check_schedules(label: str, values: Sequence[Schedule | float]) -> tuple[Schedule, ...]:
    if not isinstance(values, Iterable):
        raise TypeError(_message(label, "a sequence of schedules", values))
    return tuple(_check_schedule(label, value) for value in values)


def _check_increasing(label: str, steps: Sequence[int]) -> tuple[int, ...]:
    expected = "strictly increasing positive integers"
    if not isinstance(steps, Iterable):
        raise TypeError(_message(label, expected, steps))
    counts = tuple(_count._replace(expected=expected)(label, step) for step in steps)
    if any(a >= b for a, b in pairwise(counts)):
        raise ValueError(_message(label, expected, counts))
    return counts


AnySchedule: TypeAlias = Annotated[Schedule | float, _check_schedule]
AnySchedules: TypeAlias = Annotated[Sequence[Schedule | float], _check_schedules]
Increasing: TypeAlias = Annotated[Sequence[int], _check_increasing]


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
            raise ValueError(_message("[exponential] rate, gamma", "exactly one of the two", (self.rate, self.gamma)))
        name, check = ("rate", _finite) if self.gamma is None else ("gamma", _positive)
        object.__setattr__(self, name, check(self._label(name), getattr(self, name)))

    def _at(self, t: Array) -> Array:
        return self.start * (np.exp(-self.rate * t) if self.rate is not None else np.power(cast(float, self.gamma), t))


@dataclass(frozen=True, slots=True)
class cosine(Schedule):
    """``lr(t) = end + ½(start - end)(1 + cos(π t/steps))``, then end (Loshchilov & Hutter 2017, SGDR, eq. 5).

    Equals torch CosineAnnealingLR(T_max=steps, eta_min=end) up to `steps`, where torch's starts to rise again, and
    optax.cosine_decay_schedule(start, steps, alpha=end/start).
    """

    start: Value
    steps: Count
    end: Value = 0.0

    def _at(self, t: Array) -> Array:
        return _cosine(self.start, self.end, _done(t, self.steps))


@dataclass(frozen=True, slots=True)
class cosine_restarts(Schedule):
    """``lr(t) = end + ½(start - end)(1 + cos(π c/L))``, c steps into a cycle of L (Loshchilov & Hutter 2017, eq. 5).

    The first cycle has `period` steps, each next one `factor` times as many, without end. Equals torch
    CosineAnnealingWarmRestarts(T_0=period, T_mult=factor, eta_min=end); optax.sgdr_schedule is a join of such cycles.
    """

    start: Value
    period: Count
    factor: Count = 1
    end: Value = 0.0

    def _at(self, t: Array) -> Array:
        if self.factor == 1:
            return _cosine(self.start, self.end, t % self.period / self.period)
        # Exact starts, because a logarithm can misplace the steps next to a restart.
        starts, length = [0], self.period
        while starts[-1] <= t.max(initial=0.0):
            starts.append(starts[-1] + length)
            length *= self.factor
        edges = np.array(starts, dtype=np.float64)
        cycle = np.searchsorted(edges, t, side="right") - 1
        return _cosine(self.start, self.end, (t - edges[cycle]) / np.diff(edges)[cycle])


@dataclass(frozen=True, slots=True)
class linear(Schedule):
    """``lr(t) = start + (end - start)·t/steps``, then end.

    Equals optax.linear_schedule(start, end, steps) and torch LinearLR(1, end_factor=end/start, total_iters=steps).
    """

    start: Value
    steps: Count
    end: Value = 0.0

    def _at(self, t: Array) -> Array:
        return _linear(self.start, self.end, _done(t, self.steps))


@dataclass(frozen=True, slots=True)
class polynomial(Schedule):
    """``lr(t) = end + (start - end)(1 - t/steps)^power``, then end.

    Equals optax.polynomial_schedule(start, end, power, steps) and, with end = 0, torch PolynomialLR(steps, power).
    """

    start: Value
    steps: Count
    end: Value = 0.0
    power: Positive = 1.0

    def _at(self, t: Array) -> Array:
        return _linear(self.end, self.start, np.power(1 - _done(t, self.steps), self.power))


@dataclass(frozen=True, slots=True)
class one_cycle(Schedule):
    """Up from ``low = peak/div_factor`` to peak, then down to ``low/final_div_factor`` (Smith 2018, one-cycle).

    ``lr(t) = kind(low, peak; t/r)`` until ``r = pct_start·steps - 1``, then ``kind(peak, low/final_div_factor;
    (t - r)/(steps - 1 - r))``: the last of the `steps` updates, at t = steps - 1, has the end value. Equals torch
    OneCycleLR(peak, steps, pct_start=…, anneal_strategy=kind, div_factor=…, final_div_factor=…), whose momentum is
    one_cycle(base, steps, div_factor=base/max, final_div_factor=1). optax.cosine_onecycle_schedule(steps, peak) turns
    and ends a step later: ``join([cosine(low, r + 1, peak), cosine(peak, steps - r - 1, low/1e4)], [r + 1])``.
    """

    peak: Value
    steps: Count
    pct_start: Fraction = 0.3
    div_factor: Positive = 25.0
    final_div_factor: Positive = 1e4
    kind: Kind = "cosine"

    def _check(self) -> None:
        if self.pct_start * self.steps <= 1:
            raise ValueError(_message(self._label("pct_start"), f"above 1/steps = {1 / self.steps}", self.pct_start))
        _check_ends(self, self.kind, peak=self.peak)

    def _at(self, t: Array) -> Array:
        curve = _CURVES[self.kind]
        low, turn = self.peak / self.div_factor, self.pct_start * self.steps - 1
        up = curve(low, self.peak, _done(t, turn))
        down = curve(self.peak, low / self.final_div_factor, _done(t - turn, self.steps - 1 - turn))
        return np.where(t <= turn, up, down)


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
        _check_ends(self, self.kind, peak=self.peak, end=self.end)

    def _at(self, t: Array) -> Array:
        up = _linear(self.start, self.peak, _done(t, max(self.warmup, 1)))
        down = _CURVES[self.kind](self.peak, self.end, _done(t - self.warmup - self.stable, self.decay))
        return np.where(t < self.warmup, up, down)


@dataclass(frozen=True, slots=True)
class warmup(Schedule):
    """From start to ``target = schedule(0)`` in `steps` steps, then ``schedule(t - steps)``; a number is constant.

    With x = t/steps: linear ``start + (target - start)x``, cosine ``target + ½(start - target)(1 + cos πx)``,
    exponential ``start·(target/start)^x`` (start > 0). Equals optax.join_schedules([linear_schedule(start, target,
    steps), schedule], [steps]) and torch SequentialLR([LinearLR(start/target, total_iters=steps), schedule], [steps]);
    for the exponential kind the first part is optax.exponential_decay(start, steps, target/start).
    """

    schedule: AnySchedule
    steps: Count
    kind: Kind = "linear"
    start: Value = 0.0

    def _check(self) -> None:
        _check_ends(self, self.kind, start=self.start, schedule=cast(Schedule, self.schedule)(0))

    def _at(self, t: Array) -> Array:
        schedule = cast(Schedule, self.schedule)
        up = _CURVES[self.kind](self.start, schedule(0), _done(t, self.steps))
        return np.where(t < self.steps, up, schedule._at(np.maximum(t - self.steps, 0)))


@dataclass(frozen=True, slots=True)
class join(Schedule):
    """``lr(t) = schedules[i](t - boundaries[i-1])``, i = number of boundaries ≤ t; a number is constant.

    Equals optax.join_schedules(schedules, boundaries) and torch SequentialLR(schedules, milestones=boundaries).
    """

    schedules: AnySchedules
    boundaries: Increasing

    def _check(self) -> None:
        if len(self.schedules) != len(self.boundaries) + 1:
            expected = f"{len(self.boundaries) + 1} schedules for {len(self.boundaries)} boundaries"
            raise ValueError(_message(self._label("schedules"), expected, len(self.schedules)))

    def _at(self, t: Array) -> Array:
        first, *rest = cast(tuple[Schedule, ...], self.schedules)
        values = first._at(t)
        for boundary, schedule in zip(self.boundaries, rest, strict=True):
            values = np.where(t < boundary, values, schedule._at(np.maximum(t - boundary, 0)))
        return values


@dataclass(frozen=True, slots=True)
class scale(Schedule):
    """``lr(t) = factor · schedule(t)``. Equals torch LambdaLR(schedule) on a base of `factor`; a number is constant."""

    schedule: AnySchedule
    factor: Value

    def _at(self, t: Array) -> Array:
        return self.factor * cast(Schedule, self.schedule)._at(t)


@dataclass(slots=True)
class plateau(_Checked):
    """A value multiplied by `factor`, but never below `min_value`, when a metric stops improving.

    ``update(metric)``, once per evaluation, counts metrics that do not beat the best one by the relative `threshold`:
    below best·(1 - threshold) in mode "min", above best·(1 + threshold) in mode "max". More than `patience` in a row
    lower the value; the next `cooldown` updates then count none. Equals torch ReduceLROnPlateau with the same
    arguments, min_lr=min_value and eps=0. A NaN metric raises ValueError and changes nothing.
    """

    start: NonNegative
    factor: Fraction = 0.1
    patience: CountOrZero = 10
    threshold: Fraction = 1e-4
    mode: Literal["min", "max"] = "min"
    cooldown: CountOrZero = 0
    min_value: NonNegative = 0.0
    _value: float = field(init=False, repr=False)
    _best: float | None = field(init=False, repr=False, default=None)
    _bad: int = field(init=False, repr=False, default=0)
    _cooling: int = field(init=False, repr=False, default=0)

    def _check(self) -> None:
        if self.mode not in ("min", "max"):
            raise ValueError(_message(self._label("mode"), "min or max", self.mode))
        if self.min_value > self.start:
            raise ValueError(_message(self._label("min_value"), f"at most start = {self.start}", self.min_value))
        self._value = self.start

    def __call__(self, step: int) -> float:
        """The current value, whatever the step."""
        return self._value

    def update(self, metric: float) -> None:
        """Takes the latest metric into account."""
        metric = _metric(self._label("metric"), metric)
        if self._improves(metric):
            self._best, self._bad = metric, 0
        else:
            self._bad += 1
        if self._cooling:
            self._cooling, self._bad = self._cooling - 1, 0
        if self._bad > self.patience:
            self._value = max(self._value * self.factor, self.min_value)
            self._cooling, self._bad = self.cooldown, 0

    def _improves(self, metric: float) -> bool:
        if self.mode == "min":
            return metric < (math.inf if self._best is None else self._best * (1 - self.threshold))
        return metric > (-math.inf if self._best is None else self._best * (1 + self.threshold))

    def state_dict(self) -> dict[str, float | None]:
        """The state as plain numbers; the arguments are not part of it."""
        return {"value": self._value, "best": self._best, "bad": self._bad, "cooling": self._cooling}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Restores what ``state_dict`` gave; a wrong state raises TypeError or ValueError and changes nothing."""
        if set(state) != set(self.state_dict()):
            raise ValueError(_message(self._label("state"), f"the keys {', '.join(self.state_dict())}", list(state)))
        value = _non_negative(self._label("value"), state["value"])
        best = None if state["best"] is None else _metric(self._label("best"), state["best"])
        bad, cooling = (_count_or_zero(self._label(name), state[name]) for name in ("bad", "cooling"))
        self._value, self._best, self._bad, self._cooling = value, best, bad, cooling


def plot(*schedules: Schedule, steps: int, path: str | PathLike[str] | None = None) -> "Figure":
    """Draws the schedules over steps 0 … steps - 1, saves the figure to `path` if given, and returns it."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("[plot] matplotlib is missing: pip install fastupdate[demo]") from error
    t = np.arange(_count("[plot] steps", steps))
    axes = (figure := Figure((8, 6), layout="constrained")).add_subplot(xlabel="step", ylabel="value")
    for schedule in schedules:
        axes.plot(t, schedule(t), label=fill(repr(schedule), 100))
    if schedules:
        figure.legend(loc="outside lower left", fontsize="small")
    if path is not None:
        figure.savefig(path)
    return figure
