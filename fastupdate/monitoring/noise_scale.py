"""The gradient noise scale: the batch size up to which larger batches pay (McCandlish et al. 2018)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastupdate.arrays.numbers import real
from fastupdate.arrays.place import Place


class NoiseScale(NamedTuple):
    """An estimate over many steps.

    scale   tr Σ / ‖G‖², in examples: batches far below it are mostly noise, far above it they waste examples. Infinite
            where the true gradient cannot be told from 0
    error   its standard error, by the jackknife over the steps; infinite where it cannot be told
    noise   tr Σ, the variance of one example's gradient
    signal  ‖G‖², of the true gradient
    steps   how many it is from
    """

    scale: float
    error: float
    noise: float
    signal: float
    steps: int


def noise_scale(small: ArrayLike, large: ArrayLike, micro_batch: int, batch: int) -> NoiseScale:
    """From the norms of gradients over micro-batches, and of their means over whole batches.

    small        (steps,) or (steps, micro-batches): ‖g‖ of each micro-batch, a mean over its examples
    large        (steps,): ‖g‖ of the mean over all of them, before clipping, as `report.grad_norm`
    micro_batch  examples in a micro-batch
    batch        examples in all micro-batches of a step

    As E ‖g_B‖² = ‖G‖² + tr Σ / B, two batch sizes b < B give without bias (McCandlish et al. 2018, arXiv:1812.06162,
    appendix A.1)

        ‖G‖² = (B ‖g_B‖² − b ‖g_b‖²) / (B − b)      tr Σ = (‖g_b‖² − ‖g_B‖²) / (1/b − 1/B)

    whose means over the steps are divided only in the end, for the ratio of single steps would be biased. Little should
    be learnt between the first and the last of them, and every tensor should move.

    ValueError: sizes or shapes do not fit.
    """
    small, large = np.asarray(small, np.float64), np.asarray(large, np.float64)
    if large.ndim != 1 or small.ndim not in (1, 2) or len(small) != len(large) or not small.size:
        received = f"{small.shape} and {large.shape}"
        raise ValueError(
            f"[noise_scale] small, large: expected (steps, micro-batches) and (steps,), received {received}"
        )
    for name, size in (("micro_batch", micro_batch), ("batch", batch)):
        real(Place("noise_scale", name), size)
    if not 0 < micro_batch < batch:
        raise ValueError(
            f"[noise_scale] micro_batch: expected 0 < micro_batch < batch, received {micro_batch}, {batch}"
        )
    squares = np.square(small.reshape(len(large), -1)).mean(axis=1)
    signals = (batch * np.square(large) - micro_batch * squares) / (batch - micro_batch)
    noises = (squares - np.square(large)) / (1 / micro_batch - 1 / batch)
    noise, signal = float(noises.mean()), float(signals.mean())
    scale = noise / signal if signal > 0 else math.inf
    return NoiseScale(scale, _jackknife(noises, signals), noise, signal, len(large))


def _jackknife(noises: NDArray[np.float64], signals: NDArray[np.float64]) -> float:
    """Standard error of the ratio of the means: from the ratios that leave out one step each."""
    steps = len(noises)
    without: Any = (signals.sum() - signals) / max(steps - 1, 1)
    if steps < 2 or not (without > 0).all():
        return math.inf
    ratios = (noises.sum() - noises) / (steps - 1) / without
    return float(np.sqrt((steps - 1) * ratios.var()))
