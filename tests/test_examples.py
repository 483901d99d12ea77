"""The examples: each shows what it promises, and its networks compute the gradients of their losses."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from peers import peer

import fastupdate as fu
from fastupdate.arrays import tree
from fastupdate.arrays.place import Place

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ["cnn", "draw_schedules", "fine_tuning", "linear_regression", "mlp", "rnn"]
ELSEWHERE = ["gpu", "mpi", "sharded"]  # need a CUDA device, or several processes (tests/test_mpi.py, test_sharded.py)
LONGEST = 80  # lines
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")


def run(name: str, *arguments: object, threads: int = 1) -> str:
    """What the example prints; a warning is an error. Products of matrices run on one thread, updates on `threads`."""
    peer("sklearn")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    environment["FASTUPDATE_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def output(name: str) -> str:
    return run(name)


def numbers(line: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(line)]


def line_of(name: str, beginning: str) -> str:
    """The rest of the one line of the output that begins so."""
    (line,) = [line for line in output(name).splitlines() if line.startswith(beginning)]
    return line[len(beginning) :]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports an example as a module."""
    peer("sklearn")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module
    for name in NAMES:
        sys.modules.pop(name, None)


def test_every_example_is_tested() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem not in ELSEWHERE) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_is_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("name", NAMES)
def test_page_has_it(name: str) -> None:
    assert f"## {name}.py\n" in (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["mlp", "fine_tuning"])
def test_second_run_on_two_threads_prints_the_same(name: str) -> None:
    """The network of mlp.py is large enough for its update to be shared out; fine_tuning.py prints digests too."""
    assert run(name, threads=2) == output(name)


# -- what they show ---------------------------------------------------------------------------------------------------


def test_mlp_learns() -> None:
    epochs = [numbers(line) for line in output("mlp").splitlines()[1:-1]]
    assert [epoch[0] for epoch in epochs] == list(range(1, 13))
    assert epochs[-1][2] < epochs[0][2] / 10  # the loss
    assert epochs[-1][3] >= 95  # percent right
    assert re.fullmatch(r" [0-9a-f]{16}", line_of("mlp", "sha256 of the weights:"))


def test_cnn_learns_without_decay_of_vectors() -> None:
    vectors = "head.bias, block1.norm.scale, block1.norm.offset, block2.norm.scale, block2.norm.offset"
    assert line_of("cnn", "without weight decay: ") == vectors
    epochs = [numbers(line) for line in output("cnn").splitlines()[1:]]
    assert len(epochs) == 10
    assert epochs[-1][1] < epochs[0][1] / 10
    assert epochs[-1][2] >= 96


def test_cnn_predicts_with_running_statistics(example: Callable[[str], ModuleType]) -> None:
    """Without a generator an image's logits do not depend on the others in its batch, nor on chance."""
    cnn, rng = example("cnn"), np.random.default_rng(0)
    params, running, images = cnn.make_params(rng), {}, rng.random((6, 64), dtype=np.float32)
    cnn.forward(params, running, images, rng)
    kept = {name: np.copy(statistics) for name, statistics in running.items()}
    alone, together = cnn.forward(params, running, images[:1])[0], cnn.forward(params, running, images)[0][:1]
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-5)
    assert all(np.array_equal(running[name], kept[name]) for name in kept)


def rnn_run(clip_norm: str) -> tuple[list[list[float]], list[str]]:
    """The rows (steps, bits per character, largest gradient norm) and the diagnoses of one training."""
    (part,) = [part for part in output("rnn").split("\n\n") if part.startswith(f"clip_norm={clip_norm}\n")]
    lines = part.splitlines()[2:]
    diagnoses = [line for line in lines if "diagnosis:" in line]
    return [numbers(line) for line in lines if line not in diagnoses], diagnoses


def test_rnn_explodes_without_clipping() -> None:
    rows, diagnoses = rnn_run("None")
    (guessing,) = numbers(line_of("rnn", "guessing by the frequency of each character alone:"))
    assert rows[0][2] > 100 * rows[-1][2]  # the gradient norm
    assert "exploding" in diagnoses[0]
    assert rows[-1][1] > guessing - 0.3  # nothing was learnt from the characters before


def test_rnn_learns_with_clipping() -> None:
    rows, diagnoses = rnn_run("0.25")
    (guessing,) = numbers(line_of("rnn", "guessing by the frequency of each character alone:"))
    assert rows[-1][0] == 400
    assert rows[-1][1] < rows[0][1] - 1
    assert rows[-1][1] < guessing - 0.6
    assert "exploding" not in diagnoses[-1]


def test_fine_tuning_keeps_what_is_frozen() -> None:
    """Rows: percent right on the new and the old task, percent that two layers changed, digest of the first."""
    digest = output("fine_tuning").splitlines()[0].rpartition(" ")[2]
    methods = ("new", "pretrained", "second slow", "first frozen, second slow", "both frozen")
    rows = {name: line_of("fine_tuning", f"{name}  ").split() for name in methods}
    figures = {name: [float(cell.rstrip("%")) for cell in row[:4]] for name, row in rows.items()}
    frozen, both, free = (figures[name] for name in ("first frozen, second slow", "both frozen", "pretrained"))
    assert {name: row[4] == digest for name, row in rows.items()} == {name: "frozen" in name for name in methods}
    assert frozen[2] == both[2] == both[3] == 0.0
    assert 0 < frozen[3] < free[3] / 2  # a tenth of the learning rate
    assert figures["second slow"][3] < free[3] / 2
    assert both[0] < frozen[0] < free[0]  # what moves learns
    assert frozen[1] >= 98 > free[1]  # and forgets
    assert frozen[0] >= 85


def test_linear_regression_converges() -> None:
    names = (
        "batch, constant α",
        *(f"mini-batch, {how}" for how in ("constant α", "step decay", "exponential", "cosine")),
    )
    batch, constant, *scheduled = (numbers(line_of("linear_regression", name)) for name in names)
    assert batch[0] > batch[1] > batch[2] > batch[3]
    assert abs(batch[3]) < 1e-9  # the loss above least squares
    assert constant[3] > 5 * max(losses[3] for losses in scheduled) > 0
    assert line_of("linear_regression", "100 steps equal NumPy's  w -= alpha * g  bit for bit: ") == "True"


def test_lasso_has_exact_zeros(example: Callable[[str], ModuleType]) -> None:
    """The proximal form finds scikit-learn's lasso, zeros and all."""
    linear_regression = example("linear_regression")
    X, y = linear_regression.load()
    expected = peer("sklearn.linear_model").Lasso(alpha=linear_regression.LASSO, tol=1e-12).fit(X, y).coef_
    zeros = np.count_nonzero(expected == 0)
    assert zeros > 0
    assert line_of("linear_regression", "lasso with λ = 2, subgradient: ").startswith("0 of 10")
    assert line_of("linear_regression", "lasso with λ = 2, proximal: ").startswith(f"{zeros} of 10")
    options = {"l1": linear_regression.LASSO, "l1_mode": "proximal", "groups": [{"params": "b", "l1": 0}]}
    w = linear_regression.descend(X, y, 0.2, **options)[0]["w"]
    np.testing.assert_allclose(w, expected, rtol=1e-6, atol=1e-9)


def test_schedules_are_drawn(tmp_path: Path, example: Callable[[str], ModuleType]) -> None:
    image, module = peer("matplotlib.image"), example("draw_schedules")
    printed = run("draw_schedules", tmp_path / "curves.png").splitlines()
    assert numbers(printed[0]) == [0, 1, 100, 250, 500, 750, 999]
    cosine = [numbers(line) for line in printed if line.startswith("cosine  ")]
    assert cosine == [[round(fu.schedules.cosine(0.1, 1000)(t), 4) for t in (0, 1, 100, 250, 500, 750, 999)]]
    _, moved, total = numbers(next(line for line in printed if "moved w by" in line))
    assert moved == total > 0
    fu.schedules.plot(*module.SCHEDULES.values(), steps=1000, path=tmp_path / "expected.png")
    np.testing.assert_array_equal(image.imread(tmp_path / "curves.png"), image.imread(tmp_path / "expected.png"))


# -- gradients --------------------------------------------------------------------------------------------------------

Problem = tuple[Any, Callable[[], tuple[float, Any]]]


def linear_regression_problem(module: ModuleType, rng: np.random.Generator) -> Problem:
    params, X, y = {"w": rng.normal(size=5), "b": rng.normal(size=1)}, rng.normal(size=(7, 5)), rng.normal(size=7)
    return params, lambda: (module.loss(params, X, y), module.gradient(params, X, y))


def mlp_problem(module: ModuleType, rng: np.random.Generator) -> Problem:
    layers, X, y = module.make_layers((6, 7, 5, 4), rng, np.float64), rng.normal(size=(9, 6)), rng.integers(4, size=9)
    return layers, lambda: module.loss_and_gradients(layers, X, y)


def cnn_problem(module: ModuleType, rng: np.random.Generator) -> Problem:
    params, X, y = module.make_params(rng, np.float64), rng.normal(size=(5, 64)), rng.integers(10, size=5)
    return params, lambda: module.loss_and_gradients(params, {}, X, y, np.random.default_rng(1))  # the same dropout


def rnn_problem(module: ModuleType, rng: np.random.Generator) -> Problem:
    params, h = module.make_params(7, 5, rng, np.float64), rng.normal(size=(3, 5))
    x, y = rng.integers(7, size=(2, 6, 3))
    return params, lambda: module.loss_and_gradients(params, x, y, h)[:2]


PROBLEMS = {
    "linear_regression": linear_regression_problem,
    "mlp": mlp_problem,
    "cnn": cnn_problem,
    "rnn": rnn_problem,
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients_are_those_of_the_loss(name: str, example: Callable[[str], ModuleType]) -> None:
    """Central differences along a random direction for each tensor, in float64."""
    rng, h = np.random.default_rng(0), 1e-6
    params, evaluate = PROBLEMS[name](example(name), rng)
    place = Place(name, "params")
    grads = dict(tree.leaves(evaluate()[1], place))
    for path, p in tree.leaves(params, place):
        origin, direction = p.copy(), rng.normal(size=p.shape)
        p[...] = origin + h * direction
        above = evaluate()[0]
        p[...] = origin - h * direction
        slope = (above - evaluate()[0]) / (2 * h)
        p[...] = origin
        assert grads[path].shape == p.shape
        assert np.vdot(grads[path], direction) == pytest.approx(slope, rel=1e-6, abs=1e-8), path
