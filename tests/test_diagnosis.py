"""Diagnoses: nothing is said of healthy networks, and of each sick one what it has; each judged against its noise."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import PRODUCT
from trainings import HEALTHY, SICK, Grads, partly_dead, points, train

import fastupdate as fu
from fastupdate.monitoring.evidence import ENOUGH
from fastupdate.monitoring.finding import Finding
from fastupdate.monitoring.overshooting import expected_descents

by_seed = pytest.mark.parametrize("seed", [0, 1, 2] if PRODUCT else [0])  # all of them each night


@by_seed
@pytest.mark.parametrize("name", HEALTHY)
def test_no_false_word(name: str, seed: int) -> None:
    said = {
        f"step {10 * k}: {finding}": None for k, found in enumerate(train(HEALTHY[name](seed)), 1) for finding in found
    }
    assert list(said) == []


@by_seed
@pytest.mark.parametrize("name", SICK)
def test_none_is_missed(name: str, seed: int) -> None:
    *_, found = train(SICK[name].training(seed))
    expected = SICK[name]
    said = [str(finding) for finding in found]
    assert any(finding.kind == expected.kind and expected.says in str(finding) for finding in found), said
    assert {finding.kind for finding in found} <= {expected.kind, *expected.beside}, said
    assert all(" records of steps " in text and "Try " in text for text in said)


def test_the_page_says_how_many_there_are() -> None:
    page = (Path(__file__).parents[1] / "docs" / "monitoring.md").read_text(encoding="utf-8")
    told = re.findall(r"\b(\d+)\s+(healthy|sick)\s+ones", page)
    assert told == [(str(len(HEALTHY)), "healthy"), (str(len(SICK)), "sick")]


# -- single checks, on gradients and losses that are given -------------------------------------------------------------


def feed(grads: Iterable[Grads], losses: Iterable[float | None] = repeat(None), **options: Any) -> list[Finding]:
    """What is found after steps of SGD from weights of one with these gradients."""
    monitor, opt = fu.Monitor(), None
    for g, loss in zip(grads, losses, strict=False):
        opt = opt or fu.SGD({name: np.ones_like(a) for name, a in g.items()}, monitor=True, **options)
        monitor(opt.step(g), loss)
    return monitor.diagnose()


def layers(*gradients: Any) -> Grads:
    """Gradients of tensors a, b, c, …: constant, or arrays."""
    arrays = [g if isinstance(g, np.ndarray) else np.full(9, g) for g in gradients]
    return dict(zip("abcdefgh", arrays, strict=False))


SPARSE = np.where(np.arange(10000) == 3, 1.0, 0.0)  # its RMS over all elements is 0.01
# Each: gradients by tensor, and what is found. The last two tensors are the output.
DEPTHS = {
    "even": (layers(1.0, 1.0, 1.0, 1.0), None),
    "fading": (layers(1e-5, 1e-4, 1.0, 1.0), ("vanishing", "a", "b")),
    "hardly fading": (layers(2e-3, 2e-3, 1.0, 1.0), None),
    "growing": (layers(1e5, 1e4, 1.0, 1.0), ("exploding", "a", "b")),
    "hardly growing": (layers(500.0, 100.0, 1.0, 1.0), None),
    "small at first, as with small inputs": (layers(1e-5, 1.0, 1.0, 1.0), None),
    "large at first, as with large inputs": (layers(1e5, 1.0, 1.0, 1.0), None),
    "small in between, as a bias in front of a normalisation": (layers(1.0, 1e-9, 1.0, 1.0), None),
    "small at the end, beside a large one": (layers(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1e-9), None),
    "small but for the last bias, as with small inputs and no others": (layers(1e-5, 1e-5, 1e-5, 1.0), None),
    "sparse": (layers(SPARSE / 20, SPARSE / 20, 1.0, 1.0), None),
    "sparse and fading": (layers(SPARSE / 2000, SPARSE / 2000, 1.0, 1.0), ("vanishing", "a", "b")),
    "too few tensors for an order": (layers(1e-9, 1.0, 1.0), None),
}


@pytest.mark.parametrize(("gradients", "expected"), DEPTHS.values(), ids=DEPTHS)
def test_gradients_over_depth(gradients: Grads, expected: tuple[str, ...] | None) -> None:
    found = [(finding.kind, *finding.tensors) for finding in feed([gradients] * 20)]
    assert found == ([expected] if expected else [])


def test_a_median_counts_only_if_chance_does_not_make_it() -> None:
    """Of 50 records 36 above the limit are beyond chance, 35 are not."""
    fading, even = layers(1e-5, 1e-5, 1.0, 1.0), layers(1.0, 1.0, 1.0, 1.0)
    assert feed([fading] * 36 + [even] * 14) == feed([fading] * 14 + [even] * 36) == []
    (finding,) = feed([fading] * 37 + [even] * 13)
    assert "in 37 of them, 37 or more are beyond chance" in finding.noise


def test_figures_window_and_remedy_are_told() -> None:
    grads = [layers(1e-5, 1e-4, 1.0, 2.0)] * 70
    (finding,) = feed(grads)
    assert str(finding) == (
        "vanishing: gradients fade on their way back to a and b: their RMS is 1e-05 in a, 1e-05 times the 1 at the "
        "output (50 records of steps 21 to 70; by more than 1000 in 50 of them, 37 or more are beyond chance). "
        "Try another initialisation or activation, normalisation, or residual connections."
    )
    assert (finding.steps, finding.records) == ((21, 70), 50)


def test_what_was_wrong_before_nan_is_still_found() -> None:
    findings = feed([*[layers(1e-5, 1e-5, 1.0, 1.0)] * 10, *[layers(np.nan, 1.0, 1.0, 1.0)] * 60])
    assert [(f.kind, f.tensors) for f in findings] == [("nonfinite", ("a",)), ("vanishing", ("a", "b"))]
    assert findings[0].steps == (21, 70)
    assert findings[1].steps == (1, 10)


# Each: the norms of the gradients, the losses, and what is found with them.
GROWTHS = {
    "in the third step": ([1.0, 1.0, 1e5, 1.0], None, True),
    "in the second step": ([1.0, 1e3], None, True),
    "not quite": ([1.0, 1.0, 99.0], None, False),
    "long ago, and the loss suffers": ([1.0] * 10 + [1e3] + [1.0] * 200, [1.0] * 10 + [5.0] * 201, True),
    "long ago, and the loss has recovered": ([1.0] * 10 + [1e3] + [1.0] * 200, np.linspace(5, 1, 211), False),
    "in one step, while the loss falls": ([1.0] * 10 + [1e3] + [1.0] * 30, np.linspace(5, 1, 41), True),
    "slowly, on leaving a plateau": (np.geomspace(1, 1e4, 40), np.linspace(5, 1, 40), False),
    "slowly, and the loss with it": (np.geomspace(1, 1e4, 40), np.geomspace(1, 1e4, 40), True),
    "from zero": ([0.0] * 5 + [1.0] * 5, None, False),
}


@pytest.mark.parametrize(("norms", "losses", "found"), GROWTHS.values(), ids=GROWTHS)
def test_growth(norms: Any, losses: Any, found: bool) -> None:
    findings = feed([layers(norm / 3) for norm in norms], repeat(None) if losses is None else losses, lr=1e-9)
    assert ("exploding" in {finding.kind for finding in findings}) == found


def test_growth_is_told_with_its_figures() -> None:
    """The calmest block is that of steps 11 to 20; c has less than a tenth of the largest tensor's norm."""
    calm = [layers(2.0, 2.0, 2.0)] * 10 + [layers(1.0, 1.0, 1.0)] * 10
    (finding,) = feed([*calm, layers(1e3, 500.0, 1.0), *calm])
    largest, level = 3 * math.hypot(1e3, 500.0, 1.0), 3 * math.sqrt(3)
    assert (finding.kind, finding.tensors) == ("exploding", ("a", "b"))
    assert finding.text == (
        f"the gradient norm reached {largest:.3g} in step 21, {largest / level:.3g} times the {level:.3g} of the "
        "calmest records before, most of it in a and b"
    )


RNG = np.random.default_rng(0)
NOISE = np.abs(RNG.standard_normal(100)) + 1


def spiked(losses: np.ndarray, **steps: float) -> np.ndarray:
    """The losses, of which those of steps sN are others."""
    return np.array([steps.get(f"s{k}", loss) for k, loss in enumerate(losses, start=1)])


# Each: the losses, and the step in which there is a spike.
SPIKES = {
    "of noise": (NOISE, None),
    "of heavy noise": (RNG.exponential(size=100), None),
    "of a hinge loss that is mostly 0": (np.where(np.arange(100) % 11, 0.0, NOISE), None),
    "the first loss other than 0": (spiked(np.zeros(100), s80=1.0), None),
    "a spike": (spiked(NOISE, s80=50.0), 80),
    "two, of which the last is told": (spiked(NOISE, s70=50.0, s80=5000.0), 80),
    "a spike of a loss below 0": (spiked(NOISE - 100, s80=50.0), 80),
    "older than the window": (spiked(NOISE, s50=50.0), None),
    "too few before": (spiked(NOISE, s12=50.0)[:20], None),
    "from 2.3 to 2.3": (spiked(2.3 + 1e-5 * NOISE, s80=2.31), None),
}


@pytest.mark.parametrize(("losses", "step"), SPIKES.values(), ids=SPIKES)
def test_spikes_of_the_loss(losses: Any, step: int | None) -> None:
    found = [finding for finding in feed([layers(1e-3)] * 100, losses, lr=1e-3) if finding.kind == "spike"]
    assert [f"in step {step}, " in finding.text for finding in found] == ([True] if step else [])


# Each: losses, and whether they rise beyond their noise.
RISES = {
    "back to the start": (np.r_[np.linspace(9, 1, 60), np.linspace(1, 9, 40)], True),
    "more than half of the gain": (np.r_[np.linspace(9, 1, 60), np.linspace(1, 8, 40)], True),
    "less than half of the gain": (np.r_[np.linspace(9, 1, 60), np.linspace(1, 3, 40)], False),
    "falls": (np.linspace(9, 1, 100), False),
    "below zero": (np.linspace(-9, -1, 100), True),
    "from 2.3 to 2.3": (np.linspace(2.3, 2.3001, 100), False),
    "noise": (NOISE, False),
    "infinite": (np.r_[np.ones(60), np.full(40, 1e300)], True),
}


@pytest.mark.parametrize("lr", [0.05, 1e-3], ids=["large steps", "small steps"])
@pytest.mark.parametrize(("losses", "rises"), RISES.values(), ids=RISES)
def test_rising_losses(losses: Any, rises: bool, lr: float) -> None:
    """The weights stay near 1, so a step is `lr` of them."""
    found = {finding.kind for finding in feed([layers((-1.0) ** (k // 2)) for k in range(100)], losses, lr=lr)}
    kind = "overshooting" if lr > 0.01 else "diverging"
    assert found - {"spike"} == ({kind} if rises else set())


LOSSES = {"flat": (np.ones(30), True), "falling": (np.linspace(3, 1, 30), False), "unknown": (repeat(None), True)}


@pytest.mark.parametrize(("losses", "found"), LOSSES.values(), ids=LOSSES)
def test_turning_gradients_overshoot_unless_the_loss_falls(losses: Any, found: bool) -> None:
    findings = feed([layers((-1.0) ** k) for k in range(30)], losses, lr=0.05, momentum=0.1)
    assert [(finding.kind, finding.tensors) for finding in findings] == ([("overshooting", ("a",))] if found else [])
    assert all(("does not fall" in finding.text) == (losses is LOSSES["flat"][0]) for finding in findings)


@by_seed
def test_one_element_at_its_noise_floor_does_not_go_back_and_forth(seed: int) -> None:
    """The cosine of one element is ±1, a coin; its median was called overshooting."""
    coins = np.random.default_rng(seed).standard_normal((200, 1))
    assert feed([{"w": coin} for coin in coins], np.ones(200), lr=0.05, momentum=0.9) == []


@by_seed
@pytest.mark.parametrize(("curvature", "found"), [(0.2, False), (0.7, False), (1.7, True)])
def test_steps_go_back_and_forth_where_they_lead_beyond_the_bottom(curvature: float, found: bool, seed: int) -> None:
    """Fifty valleys of this curvature with noise, gone down by a rate of 1: beyond the bottom if it is above 1."""
    rng, w, monitor = np.random.default_rng(seed), np.ones(50), fu.Monitor()
    opt = fu.SGD([w], lr=1.0, momentum=0.01, monitor=True)
    for _ in range(60):
        monitor(opt.step([curvature * (w - 1) + 0.1 * rng.standard_normal(50)]), loss=1.0)
    findings = monitor.diagnose()
    assert {finding.kind for finding in findings} == ({"overshooting"} if found else set())
    assert any("go back and forth" in finding.text for finding in findings) == found


def test_a_step_longer_than_the_loss_is_deep_overshoots() -> None:
    """g = 3 in nine elements and lr = 0.05: a step lowers the loss by 4.05 by its slope."""
    for loss, found in ((4.0, ["overshooting"]), (4.1, []), (-1.0, [])):
        findings = feed([layers(3.0 * (-1.0) ** k) for k in range(40)], [loss] * 40, lr=0.05)
        assert [finding.kind for finding in findings] == found
    assert feed([layers(3.0 * (-1.0) ** k) for k in range(40)], [9.0] + [4.0] * 39, lr=0.05) == []  # it has halved


def test_expected_descent_is_taken_from_the_cosine() -> None:
    fields = [("grad_norm", "f8"), ("update_norm", "f8"), ("update_cosine", "f8")]
    table = np.array([[(3.0, 2.0, -0.25), (0.0, 2.0, np.nan)]], fields)
    assert expected_descents(table).tolist() == [[1.5, 0.0]]


def test_steps_with_momentum_are_judged_by_their_length_too() -> None:
    """g = 3 in nine elements, lr = 0.05, half of each step in the next: by its slope a step lowers the loss by 8.1."""
    for loss, found in ((7.9, ["overshooting"]), (8.2, [])):
        monitor, opt = fu.Monitor(), fu.SGD([np.zeros(9)], lr=0.05, momentum=0.5, monitor=True)
        for _ in range(60):
            monitor(opt.step([np.full(9, 3.0)]), loss=loss)
        assert [finding.kind for finding in monitor.diagnose()] == found


def test_gradients_that_come_at_times_are_not_dead() -> None:
    assert feed([layers(float(k % 20 == 7)) for k in range(40)]) == []


DEAD = {"0": (0.0, []), "1": (1.0, ["dead"]), "unknown": (None, ["dead"])}


@pytest.mark.parametrize(("loss", "expected"), DEAD.values(), ids=DEAD)
def test_no_gradient_at_all_is_dead_unless_the_loss_is_0(loss: float | None, expected: list[str]) -> None:
    assert [finding.kind for finding in feed([layers(0.0, 0.0)] * 20, [loss] * 20)] == expected


def test_fading_momentum_is_not_stalled_training() -> None:
    """Units that no example reaches any more keep a momentum that fades below an ulp: stalled, but nothing is lost."""
    monitor = fu.Monitor()
    opt = fu.SGD({"w": np.ones(100, np.float32)}, lr=1e-3, momentum=0.5, monitor=True)
    for step in range(60):
        g = np.ones(100, np.float32)
        g[10:] = step == 0
        monitor(opt.step({"w": g}))
    assert monitor.tensors["stalled"][-30] == 90
    assert monitor.diagnose() == []


def test_a_diagnosis_needs_ten_records() -> None:
    monitor, opt = fu.Monitor(), fu.SGD([np.ones(3), np.ones(3)], monitor=True)
    for step in range(1, ENOUGH + 1):
        monitor(opt.step([np.zeros(3), np.ones(3)]))
        assert [finding.kind for finding in monitor.diagnose()] == (["dead"] if step == ENOUGH else [])


def test_only_tensors_that_move_are_diagnosed() -> None:
    monitor, opt = fu.Monitor(), fu.SGD({"w": np.ones(3), "b": np.ones(3), "c": np.ones(3)}, monitor=True)
    for step in range(30):
        if step == 15:
            opt.freeze("w")
        monitor(opt.step({"w": np.zeros(3), "b": np.zeros(3), "c": np.ones(3)}))
    (finding,) = monitor.diagnose()
    assert (finding.kind, finding.tensors, finding.steps) == ("dead", ("b",), (16, 30))


# -- the share of dead units ------------------------------------------------------------------------------------------


@by_seed
@pytest.mark.parametrize("batch", [4, 32])
@pytest.mark.parametrize("dead", [0, 40, 60])
def test_the_share_of_dead_units_is_about_right(dead: int, batch: int, seed: int) -> None:
    """Of 80 units so many are dead; those that hardly ever work count as dead too, those that do not rest never do."""
    network = partly_dead(seed, dead / 80)
    monitor, opt, order = fu.Monitor(), fu.SGD(network.params, lr=0.01, monitor=True), np.random.default_rng(1)
    data, worked = points(seed), []
    for _ in range(50):
        chosen = order.choice(400, batch, replace=False)
        _, grads = network.gradients(data.x[chosen], data.y[chosen])
        worked.append(grads["b1"] != 0)
        monitor(opt.step(grads))
    seldom, never = np.mean(np.mean(worked, axis=0) < 0.5), np.mean(~np.any(worked, axis=0))
    assert set(monitor.dead_units) == {"b1", "b2"}
    assert never >= dead / 80
    if batch == 32:
        assert dead / 80 - 0.05 <= monitor.dead_units["b1"] <= seldom + 0.05
    else:
        assert monitor.dead_units["b1"] <= seldom + 0.05


def test_seldom_features_are_not_dead_units() -> None:
    """Most rows of an embedding have no gradient, and neither have the weights of one-hot inputs."""
    rng = np.random.default_rng(0)
    monitor, opt = fu.Monitor(), fu.SGD({"one hot": np.ones(100), "b": np.ones(1)}, lr=1e-3, monitor=True)
    for _ in range(60):
        g = np.zeros(100)
        g[rng.choice(100, 3, replace=False)] = 1.0
        monitor(opt.step({"one hot": g, "b": np.ones(1)}))
    assert (monitor.dead_units, monitor.diagnose()) == ({}, [])
