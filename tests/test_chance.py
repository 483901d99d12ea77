"""The noise that diagnoses are judged against: exact where it is combinatorics, by simulation where it is not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from peers import peer

from fastupdate.monitoring import chance


@pytest.mark.parametrize("alpha", [1e-3, 0.05])
@pytest.mark.parametrize("records", [5, 10, 11, 50, 1000])
def test_majority_is_the_quantile_of_coins(records: int, alpha: float) -> None:
    least = chance.majority(records, alpha)
    tails = [sum(math.comb(records, k) for k in range(start, records + 1)) / 2**records for start in (least, least - 1)]
    assert tails[0] <= alpha < tails[1]


def test_majority_of_few_records_is_none() -> None:
    assert chance.majority(9) == 10
    assert not chance.mostly(np.ones((9, 2), bool)).any()
    assert chance.mostly(np.ones((10, 2), bool)).all()


DRAWS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "continuous": lambda rng, n: rng.standard_normal(n),
    "ties": lambda rng, n: rng.integers(4, size=n).astype(float),
    "mostly zeros": lambda rng, n: np.maximum(rng.standard_normal(n) - 1, 0),
}


@pytest.mark.parametrize("shift", [0.0, 1.0, -2.0])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_rank_sum_is_that_of_scipy(draw: Callable[[np.random.Generator, int], np.ndarray], shift: float) -> None:
    rng = np.random.default_rng(0)
    x, y = draw(rng, 25) + shift, draw(rng, 10)
    p = peer("scipy.stats").mannwhitneyu(x, y, alternative="greater", method="asymptotic", use_continuity=False).pvalue
    assert 0.5 * math.erfc(chance.rank_sum(x, y) / math.sqrt(2)) == pytest.approx(p, rel=1e-9)


def test_rank_sum_of_equal_values_is_0() -> None:
    assert chance.rank_sum(np.full(5, 2.3), np.full(9, 2.3)) == 0


@pytest.mark.parametrize("past", [20, 50])
def test_excess_is_as_rare_as_it_says(past: int) -> None:
    """For an exponential tail; a lighter one is rarer still, whatever its scale."""
    rng = np.random.default_rng(0)
    draws = {"exponential": rng.exponential(size=(20000, past + 1)), "normal": rng.standard_normal((20000, past + 1))}
    for name, sample in draws.items():
        p = np.array([chance.excess(row[-1], row[:-1]) for row in 1000 * sample - 7])
        for alpha in (1e-2, 1e-3):
            allowed = alpha * (1.0 if name == "exponential" else 0.5) + 4 * math.sqrt(alpha / len(p))
            assert np.mean(p < alpha) <= allowed
        if name == "exponential":
            assert np.mean(p < 1e-2) > 0.6e-2  # it is not only silent


EXCESSES = {
    "not the largest": (1.0, np.arange(50.0), 1.0),
    "too few": (100.0, np.arange(10.0), 1.0),
    "mostly at the minimum": (100.0, np.maximum(np.arange(50.0) - 40, 0), 1.0),
    "no scale": (100.0, np.r_[0.0, np.full(49, 5.0)], 1.0),
}


@pytest.mark.parametrize(("value", "past", "expected"), EXCESSES.values(), ids=EXCESSES)
def test_excess_of_what_cannot_be_judged_is_1(value: float, past: np.ndarray, expected: float) -> None:
    assert chance.excess(value, past) == expected


def test_excess_by_hand() -> None:
    """Of 0 … 40 the largest ten (the 0 is left out) lie 55 above the next, 30, and the largest 10: β = 6.5."""
    k = (95.5 - 40) / 6.5
    assert chance.excess(95.5, np.arange(41.0)) == pytest.approx((1 + k / 10) ** -10 / 41)


def test_a_mean_is_below_its_bound() -> None:
    draws = np.random.default_rng(0).standard_normal((50, 20000))
    assert np.mean(chance.mean_bound(draws, 0.01) < 0) == pytest.approx(0.01, abs=0.005)


@pytest.mark.parametrize("at_work", [20, 80])
@pytest.mark.parametrize("p", [1.0, 0.9, 0.3])
def test_units_at_work_are_counted(at_work: int, p: float) -> None:
    """Of 80 units so many work with probability p in each of 50 records; hardly ever are fewer found."""
    rng = np.random.default_rng(0)
    found = [chance.units_at_work(rng.binomial(at_work, p, 50).astype(float), 80) for _ in range(300)]
    assert np.mean(np.array(found) < at_work * 0.99) <= 0.01
    if p == 1:
        assert found == [at_work] * 300


def test_units_that_seldom_work_count_for_little() -> None:
    active = 20 + np.random.default_rng(0).binomial(60, 0.02, 50).astype(float)
    assert 20 <= chance.units_at_work(active, 80) < 26


@pytest.mark.parametrize("active", [np.zeros(20), np.tile([0.0, 80.0], 10)], ids=["none", "all or none"])
def test_units_at_work_at_the_ends(active: np.ndarray) -> None:
    assert chance.units_at_work(active, 80) == (80 if active.any() else 0)


@pytest.mark.parametrize("curvature", [0.2, 1.0, 1.5])
def test_gradients_at_the_noise_floor_have_the_correlation_of_the_docs(curvature: float) -> None:
    """docs/monitoring.md: −ηh/2 from one gradient to the next, where a valley of curvature h is gone down by η = 1."""
    rng, w, gradients = np.random.default_rng(0), 0.0, []
    for noise in rng.standard_normal(40000):
        gradients.append(curvature * w + noise)
        w -= gradients[-1]
    found = np.corrcoef(gradients[100:-1], gradients[101:])[0, 1]
    assert found == pytest.approx(-curvature / 2, abs=0.02)
