"""The gradient noise scale, on gradients whose noise is known; and the policy on outliers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import fastupdate as fu
from fastupdate.monitoring import noise_scale
from fastupdate.step.outliers import Outliers

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


# -- outliers ---------------------------------------------------------------------------------------------------------


def noisy(n: int, seed: int = 0) -> np.ndarray:
    return np.exp(0.2 * np.random.default_rng(seed).standard_normal(n))


def test_what_is_far_out_is_skipped_and_what_is_not_is_not() -> None:
    outliers = Outliers(5, 50)
    assert not any(outliers.judge(norm, loss).skip for norm, loss in zip(noisy(200), noisy(200, 1) - 3, strict=True))
    assert outliers.judge(100.0, -2.0).quantity == "grad_norm"
    assert outliers.judge(1.0, 40.0).quantity == "loss"
    assert outliers.judge(1e-6, -100.0).skip is False  # only what is too large
    assert outliers.judge(1.0).skip is False  # a loss that is not known


def test_deviations_are_those_of_the_recent_past() -> None:
    outliers, losses = Outliers(3, 10), noisy(30)
    for loss in losses:
        outliers.judge(1.0, loss)
    mean, spread = losses[-10:].mean(), losses[-10:].std(ddof=1)
    verdict = outliers.judge(1.0, mean + 7 * spread)
    assert (verdict.quantity, verdict.deviations) == ("loss", pytest.approx(7))
    assert outliers.state_dict()["loss"][-1] == pytest.approx(mean + 3 * spread)


@pytest.mark.parametrize("window", [10, 50, 200])
def test_another_level_for_good_is_followed(window: int) -> None:
    outliers = Outliers(6, window)
    for norm in noisy(window):
        outliers.judge(norm)
    skipped = [outliers.judge(1000 * norm).skip for norm in noisy(window, 1)]
    assert skipped[0]
    assert not any(skipped[window // 8 + 5 :])


def test_nothing_is_judged_by_too_few_or_by_equal_values() -> None:
    outliers = Outliers(1, 20)
    assert not any(outliers.judge(1.0, 10.0**k).skip for k in range(10))
    flat = Outliers(6, 20)
    for _ in range(20):
        flat.judge(1.0, 0.0)
    assert flat.judge(1.05, 0.1).skip is False  # within 6 %, and no scale for the loss
    assert flat.judge(1.1, 0.0).quantity == "grad_norm"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_left_to_the_other_policy(value: float) -> None:
    outliers = Outliers(5, 20)
    for norm in noisy(30):
        outliers.judge(norm, norm)
    before = outliers.state_dict()
    assert outliers.judge(value, value).skip is False
    assert outliers.state_dict() == before


def test_a_restored_past_judges_alike() -> None:
    first, second = Outliers(4, 20), Outliers(4, 20)
    for norm in noisy(30):
        first.judge(norm, norm)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    figures = zip(3 * noisy(50, 1), noisy(50, 2), strict=True)
    assert all(first.judge(*pair) == second.judge(*pair) for pair in figures)


@pytest.mark.parametrize(
    "state", [{}, {"loss": [1.0]}, {"loss": [1.0], "grad_norm": [math.nan]}, {"loss": 1.0, "grad_norm": []}]
)
def test_a_wrong_state_is_refused_and_nothing_has_changed(state: dict) -> None:
    outliers = Outliers(4, 20)
    outliers.judge(1.0, 2.0)
    with pytest.raises(ValueError, match=r"\[outliers\] state: expected finite numbers for grad_norm and loss"):
        outliers.load_state_dict(state)
    assert outliers.state_dict() == {"grad_norm": [0.0], "loss": [2.0]}


@pytest.mark.parametrize(("k", "window"), [(0, 20), (math.inf, 20), (True, 20), (5, 9), (5, 20.5), (5, True)])
def test_wrong_options_of_outliers_are_refused(k: float, window: int) -> None:
    with pytest.raises(ValueError, match=r"\[outliers\] (k|window): expected"):
        Outliers(k, window)
