"""The gradient noise scale, on gradients whose noise is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fastupdate as fu
from fastupdate.monitoring import noise_scale

SIGNAL = np.full(100, 0.1)  # ‖G‖² = 1


def norms(
    steps: int, micro_batches: int, examples: int, deviation: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Of micro-batches and of their means; an example's gradient is SIGNAL and normal noise."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((steps, micro_batches, 100)) * deviation / math.sqrt(examples)
    micro = SIGNAL + noise
    return np.linalg.norm(micro, axis=2), np.linalg.norm(micro.mean(axis=1), axis=1)


@pytest.mark.parametrize("deviation", [0.5, 2.0])
@pytest.mark.parametrize("micro_batches", [2, 8])
def test_noise_scale_is_that_of_the_gradients(micro_batches: int, deviation: float) -> None:
    """tr Σ = 100 σ² over ‖G‖² = 1."""
    small, large = norms(2000, micro_batches, 4, deviation)
    found = noise_scale(small, large, 4, 4 * micro_batches)
    assert found.signal == pytest.approx(1, rel=0.1)
    assert found.noise == pytest.approx(100 * deviation**2, rel=0.05)
    assert abs(found.scale - 100 * deviation**2) < 4 * found.error < 100 * deviation**2
    assert found.steps == 2000


def test_the_error_is_that_of_repetitions() -> None:
    found = [noise_scale(*norms(200, 4, 4, 1.0, seed), 4, 16) for seed in range(200)]
    assert np.median([f.error for f in found]) == pytest.approx(np.std([f.scale for f in found]), rel=0.2)


def test_one_norm_for_each_step_will_do() -> None:
    small, large = norms(500, 4, 4, 1.0)
    root_mean_square = np.sqrt(np.square(small).mean(axis=1))
    assert noise_scale(root_mean_square, large, 4, 16) == pytest.approx(noise_scale(small, large, 4, 16))


def test_no_signal_is_an_infinite_scale() -> None:
    found = noise_scale([[1.0, 1.0]], [0.1], 1, 2)
    assert (found.scale, found.error) == (math.inf, math.inf)


def test_from_the_reports_of_micro_batches() -> None:
    """`report.grad_norm` of accumulated micro-batches is the norm of their mean."""
    rng, opt = np.random.default_rng(0), fu.SGD([np.zeros(100)], lr=0.0, clip_norm=1e9)
    small, large = [], []
    for _ in range(400):
        micro = [SIGNAL + rng.standard_normal(100) for _ in range(4)]
        for g in micro:
            opt.accumulate([g])
        small.append([np.linalg.norm(g) for g in micro])
        large.append(opt.step().grad_norm)
    found = noise_scale(small, large, 1, 4)
    assert abs(found.scale - 100) < 4 * found.error


WRONG = {
    "shapes": (([[1.0]], [1.0, 2.0], 1, 2), "small, large: expected"),
    "nothing": (([], [], 1, 2), "small, large: expected"),
    "sizes": (([1.0], [1.0], 4, 4), "micro_batch: expected 0 < micro_batch < batch, received 4, 4"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=rf"\[noise_scale\] {message}"):
        noise_scale(*arguments)
