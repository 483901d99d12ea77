"""What chance alone does to figures of a training: the noise that every diagnosis is judged against.

None of it supposes a normal distribution, for losses and gradients of mini-batches have none.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ALPHA = 1e-3  # how often one look at noise may give one verdict
RARE = 1e-7  # how often one record of noise may look like a spike
TAIL = 0.25  # the largest quarter of a sample shows how its tail falls off
FEWEST = 15  # values before anything can be said of their tail


@cache
def majority(records: int, alpha: float = ALPHA) -> int:
    """How many of `records` coins show heads with a probability ≤ alpha only; records + 1 if they are too few.

    The sign test: a figure that is above a limit in so many records has its median above the limit, whatever its
    distribution.
    """
    tail, least = 0, records + 1
    while least > 0 and tail + math.comb(records, least - 1) <= alpha * 2**records:
        least -= 1
        tail += math.comb(records, least)
    return least


def mostly(true: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Along the first axis, the records: whether so many are true that the median is, beyond chance (`majority`)."""
    return np.asarray(np.count_nonzero(true, axis=0) >= majority(len(true)))


def rank_sum(later: Floats, before: Floats) -> float:
    """How many standard deviations `later` lies above `before`: the rank-sum test of Mann & Whitney (1947), with ties.

    z = (U − nm/2) / σ, where U counts the pairs in which the later value is the larger one (a tie: half), and
    σ² = nm/12 · (N + 1 − Σ (t³ − t) / (N (N − 1))) with N = n + m and t the sizes of the ties. 0 if all are equal.
    """
    n, m = len(later), len(before)
    total = n + m
    u = np.count_nonzero(later[:, None] > before) + np.count_nonzero(later[:, None] == before) / 2
    ties = np.unique(np.concatenate([later, before]), return_counts=True)[1].astype(np.float64)
    variance = n * m / 12 * (total + 1 - (ties**3 - ties).sum() / (total * (total - 1)))
    return float((u - n * m / 2) / math.sqrt(variance)) if variance > 0 else 0.0


def excess(value: float, past: Floats) -> float:
    """The probability that the next value of a noise with an exponential tail (or a lighter one) is so far out.

    Of N past values let x₁ ≥ x₂ ≥ … be the largest, and m = N/4. If the value to come is above all of them, xⱼ − xⱼ₊₁
    has the mean β / (j + 1) for such a tail, so that β = Σ (j + 1) (xⱼ − xⱼ₊₁) / m, up to j = m, estimates its scale
    (Rényi 1953; for logarithms, Hill 1975). That value is above all with a probability of 1 / (N + 1), and then by more
    than kβ with (1 + k/m)^−m, for its distance over β is the ratio of an exponential and a gamma variable.
    Values at the minimum are left out: many of them, as the exact zeros of a hinge loss, say nothing of the tail.
    1.0 if it is not the largest, or if there are too few.
    """
    past = past[past > past.min()]
    if len(past) < FEWEST or not value > past.max():
        return 1.0
    m = int(TAIL * len(past))
    largest = np.sort(past)[-m - 1 :]
    scale = float((largest[1:] - largest[0]).sum() + largest[-1] - largest[0]) / m
    if scale == 0:
        return 1.0
    return math.exp(-m * math.log1p((value - float(largest[-1])) / (scale * m))) / (len(past) + 1)


def mean_bound(values: Floats, alpha: float = ALPHA) -> Floats:
    """Below this the mean of the values, along the first axis, lies with a probability of 1 − alpha."""
    z = NormalDist().inv_cdf(1 - alpha)
    return np.asarray(values.mean(axis=0) + z * values.std(axis=0, ddof=1) / math.sqrt(len(values)))


def units_at_work(active: Floats, units: int, alpha: float = ALPHA) -> float:
    """At most how many of `units` ever work, from how many did so in each record.

    If unit i works in a share pᵢ of the records, independently, the count has the mean a = Σ pᵢ and the variance
    v = Σ pᵢ (1 − pᵢ), so that a² / (a − v) = (Σ pᵢ)² / Σ pᵢ²: the number of units that share the work. Units that
    rest together only raise v, and with it the bound. For v the upper limit of its χ² interval is taken.
    """
    mean, freedom = float(active.mean()), len(active) - 1
    z = NormalDist().inv_cdf(1 - alpha)
    chi_square = freedom * (1 - 2 / (9 * freedom) - z * math.sqrt(2 / (9 * freedom))) ** 3  # Wilson & Hilferty (1931)
    variance = float(active.var(ddof=1)) * freedom / chi_square
    return units if variance >= mean > 0 else min(float(units), mean * mean / (mean - variance)) if mean > 0 else 0.0
