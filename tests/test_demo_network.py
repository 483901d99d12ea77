"""The demonstration's network learns, with every rule, and as plain NumPy does it; choosing a learning rate."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from cases import RULES

pytest.importorskip("sklearn", reason="needs the extra 'demo'")
pytest.importorskip("matplotlib", reason="needs the extra 'demo'")
pytest.importorskip("rich", reason="needs the extra 'demo'")

from matplotlib.figure import Figure

from fastupdate.demo import choosing, data, report, train
from fastupdate.demo.network import MLP, softmax_cross_entropy

pytestmark = pytest.mark.usefixtures("surroundings")


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load_digits()


def train_quietly(rule: str, digits: data.Dataset, **settings: float) -> train.Run:
    settings = {"epochs": digits.epochs, "batch_size": digits.batch_size, "seed": 0} | settings
    run = train.Run(rule, train.learning_rate(rule, train.Settings(**settings)))
    train.train(run, digits, train.Settings(**settings), report.LineProgress(width=8))
    return run


# -- the network ------------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_loss() -> None:
    """Central differences of the loss, in float64, for every weight of a small network."""
    rng = np.random.default_rng(0)
    network = MLP((5, 7, 6, 3), rng)
    network.params = {name: p.astype(np.float64) for name, p in network.params.items()}
    network.grads = {name: np.full(p.shape, np.nan) for name, p in network.params.items()}
    x, labels = rng.standard_normal((4, 5)), np.array([0, 2, 1, 2])
    network.compute_gradients(x, labels)
    for name, p in network.params.items():
        for index in np.ndindex(p.shape):
            kept, losses = p[index], []
            for p[index] in (kept - 1e-6, kept + 1e-6):
                losses.append(softmax_cross_entropy(network.forward(x)[-1], labels)[0])
            p[index] = kept
            assert network.grads[name][index] == pytest.approx((losses[1] - losses[0]) / 2e-6, abs=1e-8)


def test_gradient_buffers_stay_where_they_are() -> None:
    network = MLP((5, 7, 3), np.random.default_rng(0))
    before = {name: (id(g), g.ctypes.data, g.dtype, g.shape) for name, g in network.grads.items()}
    network.compute_gradients(np.ones((2, 5), np.float32), np.array([0, 1]))
    assert {name: (id(g), g.ctypes.data, g.dtype, g.shape) for name, g in network.grads.items()} == before


def test_huge_logits_do_not_overflow() -> None:
    loss, d_logits = softmax_cross_entropy(np.array([[1000.0, 0.0]], np.float32), np.array([1]))
    assert loss == 1000.0
    assert np.array_equal(d_logits, [[1.0, -1.0]])


def test_mini_batches_cover_every_image_once() -> None:
    batches = list(train.mini_batches(10, 4, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(np.concatenate(batches)) == list(range(10))


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_reaches_97_percent_and_agrees_with_numpy(rule: str, digits: data.Dataset) -> None:
    run = train_quietly(rule, digits)
    assert run.last.accuracy >= 0.97
    assert run.last.difference <= 1e-6
    assert run.last.update_seconds > 0
    assert run.last.numpy_seconds > 0
    assert run.diverged is None


def test_same_seed_same_bits(digits: data.Dataset) -> None:
    digests = [train_quietly("adamw", digits, epochs=2, seed=seed).last.digest for seed in (3, 3, 4)]
    assert digests[0] == digests[1] != digests[2]
    assert re.fullmatch("[0-9a-f]{8}", digests[0])


def test_numpy_twin_notices_a_wrong_update(digits: data.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "numpy_update", lambda *_: None)
    assert train_quietly("sgd", digits, epochs=1).last.difference > 1e-2


def test_the_grid_goes_on_beyond_an_end_that_is_best() -> None:
    tried = dict(zip([0.1, 0.3, 1.0, 3.0, 10.0], [5.0, 4.0, 3.0, 2.0, 1.0], strict=True))
    assert choosing.beyond(tried) == [pytest.approx(10 * 10 / 3)]
    assert choosing.beyond({lr: 1 / loss for lr, loss in tried.items()}) == [pytest.approx(0.1 / 3)]
    assert choosing.beyond({**tried, 1.0: 0.5}) == []
    assert choosing.beyond(dict.fromkeys(tried, math.inf)) == [pytest.approx(0.1 / 3)]


def test_each_rule_has_a_panel_and_losses_of_0_are_drawn() -> None:
    """A logarithmic axis has no place for 0: the line goes down to the floor, where triangles stand."""
    figure = Figure()
    panel = figure.subplots()
    losses = {"sgd": [2.0, 0.5, 1e-3], "muon": [2.0, 0.0, 1e-8], "adamw": [2.0, 1.0, 0.1]}
    facts = [{"rule": rule, "losses": values, "accuracies": [0.1, 0.9, 0.9]} for rule, values in losses.items()]
    choosing._draw_losses(panel, facts[1], facts, floor=1e-9)
    *others, own, zeros = panel.get_lines()
    assert len(others) == 3
    assert list(own.get_ydata()) == [2.0, 1e-9, 1e-8]
    assert (list(zeros.get_xdata()), list(zeros.get_ydata())) == ([1], [1e-9])
    assert panel.get_title(loc="left") == "muon"


@pytest.mark.parametrize("count", [1, 4, 7])
def test_a_picture_of_any_number_of_rules(count: int, tmp_path: Path) -> None:
    found = [{"rule": f"rule{k}", "losses": [1.0, 0.0], "accuracies": [0.1, 0.9]} for k in range(count)]
    choosing.draw(found, choosing.title("digits", 0), tmp_path / "all.png")
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_put_aside_is_not_trained_on(digits: data.Dataset) -> None:
    apart = choosing.put_aside(digits)
    sizes = len(apart.train_images), len(apart.test_images)
    assert sum(sizes) == len(digits.train_images)
    assert sizes[1] == pytest.approx(sizes[0] / 4, abs=1)
    seen = {image.tobytes() for image in apart.train_images}
    assert len([image for image in apart.test_images if image.tobytes() in seen]) <= 2  # the same digit twice
