"""What happens between reading the gradients and moving anything: clipping by norm, the policies on NaN and infinity
and on outliers.

CPU backends share this, and so do steps on a GPU that `outliers` judge; a GPU engine decides on the device otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from fastupdate.arrays.memory import Array, Assignment
from fastupdate.arrays.numbers import figure
from fastupdate.arrays.place import Place
from fastupdate.engines.protocol import Judge
from fastupdate.step import held
from fastupdate.step.options import Settings
from fastupdate.step.outliers import Outliers, Verdict
from fastupdate.step.plan import Plan

CLIP_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_
LARGE = 2.0**600  # a unit of gradients of which float64 holds the squares, whatever they are
UNIT_FLOOR = 1e-3  # smaller weight norms count as this (Brock et al. 2021, section 4.1)
NONFINITE = "gradients that are not finite"  # why a step was skipped


class Outcome(NamedTuple):
    """What a reading of the gradients decided. None: not asked for; reason None: the step is to be taken."""

    factor: float = 1.0
    grad_norm: float | None = None
    nonfinite: int | None = None
    reason: str | None = None
    verdict: Verdict | None = None


class Skips:
    """Steps skipped in a row, against the option `max_skips`; and the past that `outliers` are judged by."""

    def __init__(self, settings: Settings) -> None:
        self._rule, self._limit = settings.rule, math.inf if settings.max_skips is None else settings.max_skips
        self.count = 0
        self.outliers = Outliers(*settings.outliers) if settings.outliers else None

    def measured(self, loss: Any) -> float:
        """The loss of a step as a number."""
        place = Place(self._rule, "loss")
        if self.outliers is None:
            place.fail(ValueError, "None, unless the option outliers=(k, window) is to judge it", repr(loss))
        return figure(place, loss)

    def note(self, skipped: bool) -> None:
        """Counts the outcome of a step. One skipped step too many stays one, however many follow."""
        self.count = self._after(skipped)

    def _after(self, skipped: bool) -> int:
        return int(min(self.count, self._limit)) + 1 if skipped else 0

    def taking(self, outcome: Outcome) -> list[Assignment]:
        """The assignments that count the outcome of a step, and remember its figures unless it is a skip too many."""
        count = self._after(outcome.reason is not None)
        new: list[Assignment] = [(setattr, self, "count", count)]
        if self.outliers and outcome.verdict and count <= self._limit:
            new.append(self.outliers.taking(outcome.verdict))
        return new

    def check_taken(self, outcome: Outcome, plan: Plan) -> None:
        """FloatingPointError if the step that was counted was skipped once too often."""
        if self.too_many and outcome.verdict:
            words = self._words("an ordinary step")
            Place(self._rule, "grads").fail(FloatingPointError, words, f"one with its {outcome.reason}")
        if self.too_many:
            raise_nonfinite(plan, self._words("finite values"))

    @property
    def too_many(self) -> bool:
        """Whether the last step should not have been skipped."""
        return self.count > self._limit

    def _words(self, what: str) -> str:
        """What was expected, after what."""
        return f"{what} after {self._limit} skipped steps in a row (max_skips)"

    def check(self) -> None:
        """FloatingPointError, once for each step too many; what a device has skipped is known some steps later."""
        if self.too_many:
            self.count = int(self._limit)
            Place(self._rule, "grads").fail(FloatingPointError, self._words("finite values"), "others")


class Overall(NamedTuple):
    """What all gradients come to: Σ scale²·Σg², g being in units of `unit`, and how many are not finite."""

    squares: float
    nonfinite: int
    unit: float

    @property
    def norm(self) -> float:
        return math.sqrt(self.squares)


def sum_up(plans: Sequence[Plan]) -> Overall:
    """What the gradients of these plans come to; in large units where float64 cannot hold their squares."""
    for unit in (1.0, LARGE):
        sums = [plan.engine.overall(plan.measure(unit)) for plan in plans]
        squares, nonfinite = sum(each for each, _ in sums), sum(count for _, count in sums)
        if nonfinite or squares < math.inf:
            break
    return Overall(squares, nonfinite, unit)


def condition(
    plan: Plan, scale: float, outliers: Outliers | None, loss: float | None, overall: Overall | None
) -> Outcome:
    """Decides by all gradients if they were read; sets per-tensor and per-unit factors in the records.

    overall: what the gradients that are decided upon come to, those of other plans among them
    """
    s = plan.settings
    outcome = _judge(plan, scale, outliers, loss, overall) if overall else Outcome()
    if s.clip_unit_norm is not None and not outcome.reason:
        _clip_units(plan, s.clip_unit_norm, scale)
    return outcome


def _judge(plan: Plan, scale: float, outliers: Outliers | None, loss: float | None, overall: Overall) -> Outcome:
    """By all gradients: whether the step is skipped, or else how much they are clipped."""
    s = plan.settings
    nonfinite, unit = overall.nonfinite, overall.unit
    norm = scale * overall.norm
    grad_norm = norm * unit
    if s.nonfinite == "raise":
        raise_nonfinite(plan)
    if nonfinite and s.nonfinite == "skip":
        return Outcome(1.0, grad_norm, nonfinite, NONFINITE)
    verdict = outliers.judge(grad_norm, loss) if outliers else None
    if verdict and verdict.reason:
        return Outcome(1.0, grad_norm, nonfinite, verdict.reason, verdict)
    factor, scales = 1.0, plan.tensors["scale"] * scale
    if s.clip_tensor_norm is not None:
        norms, units = _in_units(np.sqrt(plan.totals["gg"]), lambda: np.sqrt(plan.measure(LARGE)["gg"]))
        factors = _factors(s.clip_tensor_norm / units, norms * plan.tensors["scale"] * scale + CLIP_EPS / units)
        held.check_clip(s.rule, "clip_tensor_norm", s.clip_tensor_norm, norms, factors * scales)
        plan.tensors["scale"] *= factors
    if s.clip_norm is not None:
        factor = s.clip_norm / unit / (norm + CLIP_EPS / unit)
        factor = 1.0 if factor > 1.0 else factor
        held.check_clip(s.rule, "clip_norm", s.clip_norm, norm, factor * scales)
    return Outcome(factor, grad_norm, nonfinite, None, verdict)


def _factors(limits: Any, norms: Any) -> Any:
    """min(1, limit / norm); NaN stays NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.divide(limits, norms)
    return np.where(factors > 1.0, 1.0, factors)


def _in_units(norms: Array, measure: Callable[[], Array]) -> tuple[Array, Array]:
    """Norms in units that float64 holds them in, and the units: those that are infinite are measured in large ones."""
    far = np.isinf(norms)
    if far.any():  # those of infinite elements stay so, though float32 has made NaN of ∞ · 0
        norms = np.where(far, np.nan_to_num(measure(), nan=np.inf, posinf=np.inf), norms)
    return norms, np.where(far, LARGE, 1.0)


def raise_nonfinite(plan: Plan, expected: str = "finite values") -> None:
    """FloatingPointError for the first tensor whose gradient is not finite, by the totals."""
    counts = plan.totals["nonfinite"]
    if counts.any():
        k = int(np.flatnonzero(counts)[0])
        name = plan.items[k].place.argument.replace("params", "grads", 1)
        rule = plan.settings.rule
        raise FloatingPointError(f"[{rule}] {name}: expected {expected}, received {counts[k]} that are not")


def _clip_units(plan: Plan, ratio: float, scale: float) -> None:
    """Adaptive gradient clipping: ‖g‖ ≤ ratio · max(‖w‖, 1e-3), unit by unit (Brock et al. 2021, equation 3)."""
    if plan.engine.judges:
        cast(Judge, plan.engine).clip_units(ratio, scale)
        return
    norms, units = _in_units(plan.measure_units().copy(), lambda: plan.measure_units(LARGE))
    unit = units.max(axis=1)
    grad, weight = (norms * (units / unit[:, None])).T
    scales = scale * plan.tensors["scale"][plan.unit_tensor]
    factors = _factors(ratio * np.maximum(weight, UNIT_FLOOR / unit), grad * scales)
    held.check_clip(plan.settings.rule, "clip_unit_norm", ratio, grad, factors * scales)
    plan.unit_scale[:] = factors
