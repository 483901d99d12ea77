"""Whether the type that a step computes in can hold the step's numbers: what it cannot hold is refused by name."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastupdate.arrays.place import Place
from fastupdate.stages import HYPERS

DType: TypeAlias = np.dtype[np.float32] | np.dtype[np.float64]
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
COARSE = 2.0**-1062  # float64 holds smaller numbers with less than 12 bits


class Limits(NamedTuple):
    """Of a type: the largest number, the smallest that has all its digits, and the largest that becomes 0."""

    largest: float
    smallest: float
    vanishing: float


def narrowest(dtypes: Iterable[Any]) -> DType:
    """The one of these types that holds the least numbers."""
    return FLOAT32 if FLOAT32 in set(dtypes) else FLOAT64


@cache
def limits(dtype: DType) -> Limits:
    """The limits of a type, which NumPy would ask the processor for: a caller who flushes subnormals gets others."""
    if dtype == FLOAT32:
        return Limits((2 - 2.0**-23) * 2.0**127, 2.0**-126, 2.0**-150)
    return Limits(sys.float_info.max, sys.float_info.min, 0.0)


def check_hypers(rule: str, values: Mapping[str, float], dtype: DType) -> None:
    """ValueError for a hyperparameter that `dtype` would turn into infinity, and for an ε that it would turn into 0.

    values: the numbers of one group in one step. A limit of clipping beyond the type is none, which is right, unless
    all gradients lie beyond it; where a hyperparameter may be infinite, it is so in every type. Engines ask the same
    questions in `holds_numbers`; this one finds the name.
    """
    largest, _, vanishing = limits(dtype)
    lr = values["lr"] * values["lr_scale"]
    boundless = {name: 0.0 for name, hyper in HYPERS.items() if hyper.interval.infinite}
    met = {**values, "lr": lr, "lr_scale": 0.0, **boundless}
    low, high = max(values["clip_low"], -values["clip_value"]), min(values["clip_high"], values["clip_value"])
    if low > high:
        Place(rule, "clip_value").fail(ValueError, "(low, high) with low ≤ high", f"({low:g}, {high:g})")
    if low > largest or high < -largest:
        Place(rule, "clip_value").fail(ValueError, f"limits that {dtype.name} can hold", f"({low:g}, {high:g})")
    for name, value in met.items():
        if largest < value < math.inf:
            Place(rule, name).fail(ValueError, f"a number that {dtype.name} can hold", f"{value:g}")
        if name in ("l1", "weight_decay") and max(lr, lr * (lr / values["peak_lr"])) * value > largest:
            received = f"{value:g} with a learning rate of {lr:g}"
            Place(rule, name).fail(ValueError, f"a number that {dtype.name} can hold", received)
        if name.startswith("eps") and 0 < value <= vanishing:
            Place(rule, name).fail(ValueError, f"0 or a number that {dtype.name} does not take for 0", f"{value:g}")


def gradient_scale(rule: str, loss_scale: float, weight: float, dtype: DType) -> float:
    """What the sum of gradients of that weight is multiplied by; ValueError if this type cannot hold it."""
    largest, smallest, _ = limits(dtype)
    divisor = loss_scale * weight
    scale = 1 / divisor if divisor else math.inf
    if not smallest <= scale <= largest:
        among = "" if weight == 1 else f", with micro-batches that weigh {weight:g} together"
        words = f"a number whose inverse {dtype.name} can hold{among}"
        Place(rule, "loss_scale").fail(ValueError, words, f"{loss_scale:g}")
    return scale


def check_clip(rule: str, name: str, limit: float, norms: Any, factors: Any) -> None:
    """ValueError if float64 cannot hold what gradients are multiplied by to bring them down.

    norms, factors  numbers or arrays alike; norms in any units in which those of finite gradients are finite
    """
    if ((np.abs(factors) < COARSE) & np.isfinite(norms)).any():
        Place(rule, name).fail(ValueError, "a limit that float64 can scale such large gradients down to", f"{limit:g}")
