"""What happens between reading the gradients and moving anything: clipping by norm, and the policy on NaN and infinity.

CPU backends share this; a GPU engine decides on the device.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastupdate.arrays.place import Place
from fastupdate.step import held
from fastupdate.step.plan import Plan

CLIP_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_
UNIT_FLOOR = 1e-3  # smaller weight norms count as this (Brock et al. 2021, section 4.1)


class Outcome(NamedTuple):
    """What a reading of the gradients decided. None: not asked for."""

    factor: float = 1.0
    grad_norm: float | None = None
    nonfinite: int | None = None
    skip: bool = False


class Skips:
    """Steps skipped in a row, against the option `max_skips`."""

    def __init__(self, rule: str, limit: int | None) -> None:
        self._rule, self._limit = rule, math.inf if limit is None else limit
        self._count = 0

    def note(self, skipped: bool) -> None:
        """Counts the outcome of a step. One skipped step too many stays one, however many follow."""
        self._count = int(min(self._count, self._limit)) + 1 if skipped else 0

    @property
    def too_many(self) -> bool:
        """Whether the last step should not have been skipped."""
        return self._count > self._limit

    @property
    def words(self) -> str:
        """What was expected, after what."""
        return f"finite values after {self._limit} skipped steps in a row (max_skips)"

    def check(self) -> None:
        """FloatingPointError, once for each step too many; what a device has skipped is known some steps later."""
        if self.too_many:
            self._count = int(self._limit)
            Place(self._rule, "grads").fail(FloatingPointError, self.words, "others")


def clip_factor(limit: float, norm: float) -> float:
    """min(1, limit / (norm + 1e-6)); NaN stays NaN."""
    factor = limit / (norm + CLIP_EPS)
    return 1.0 if factor > 1.0 else factor


def condition(plan: Plan, scale: float) -> Outcome:
    """Reads the gradients where an option asks for it; sets per-tensor and per-unit factors in the records."""
    s = plan.settings
    outcome = _judge(plan, scale) if s.needs_sums else Outcome()
    if s.clip_unit_norm is not None and not outcome.skip:
        _clip_units(plan, s.clip_unit_norm, scale)
    return outcome


def _judge(plan: Plan, scale: float) -> Outcome:
    """By all gradients: whether the step is skipped, or else how much they are clipped."""
    s = plan.settings
    plan.measure()
    tensors, totals = plan.tensors, plan.totals
    squares, nonfinite = plan.engine.overall(totals)
    norm = scale * math.sqrt(squares)
    if s.nonfinite == "raise":
        raise_nonfinite(plan)
    if nonfinite and s.nonfinite == "skip":
        return Outcome(1.0, norm, nonfinite, skip=True)
    if s.clip_tensor_norm is not None:
        norms = np.sqrt(totals["gg"]) * tensors["scale"] * scale
        factors = s.clip_tensor_norm / (norms + CLIP_EPS)
        factors = np.where(factors > 1.0, 1.0, factors)
        scales, limit = tensors["scale"] * scale, s.clip_tensor_norm
        held.check_clip(s.rule, "clip_tensor_norm", limit, norms, factors, scales, plan.narrow)
        tensors["scale"] *= factors
    if s.clip_norm is None:
        return Outcome(1.0, norm, nonfinite)
    factor = clip_factor(s.clip_norm, norm)
    held.check_clip(s.rule, "clip_norm", s.clip_norm, norm, factor, tensors["scale"] * scale, plan.narrow)
    return Outcome(factor, norm, nonfinite)


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
    plan.engine.unit_norms()
    scales = scale * plan.tensors["scale"][plan.unit_tensor]
    grad = plan.unit_norms[:, 0] * scales
    limit = ratio * np.maximum(plan.unit_norms[:, 1], UNIT_FLOOR)
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = limit / grad
    factors = np.where(factors > 1.0, 1.0, factors)
    narrow = plan.narrow[plan.unit_tensor]
    held.check_clip(plan.settings.rule, "clip_unit_norm", ratio, grad, factors, scales, narrow)
    plan.unit_scale[:] = factors
