"""The demonstration: the network, the data it reads, and the command `fastupdate train`."""

from __future__ import annotations

import gzip
import json
import math
import os
import pty
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from cases import RULES

import fastupdate as fu
from fastupdate.cli import main

pytest.importorskip("sklearn", reason="needs the extra 'demo'")
pytest.importorskip("matplotlib", reason="needs the extra 'demo'")
pytest.importorskip("rich", reason="needs the extra 'demo'")

from fastupdate.demo import DemoError, choosing, data, report, train
from fastupdate.demo.network import MLP, softmax_cross_entropy

COMMAND = [sys.executable, "-m", "fastupdate", "train"]


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to write into, and one thread, as the command has by default; conftest.py puts that back."""
    monkeypatch.chdir(tmp_path)
    fu.set_num_threads(1)


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


# -- the command ------------------------------------------------------------------------------------------------------


def test_lines_in_a_pipe(tmp_path: Path) -> None:
    rules, epochs = ["sgd", "adamw"], 2
    picture = tmp_path / "curves.png"
    arguments = ["--rule", *rules, "--epochs", str(epochs), "--out", str(picture)]
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    progress = [line.split()[:3] for line in done.stdout.splitlines() if " epoch " in line]
    assert progress == [[rule, "epoch", f"{epoch}/{epochs}"] for rule in rules for epoch in (1, 2)]
    table = [line.split()[0] for line in done.stdout.partition("rule ")[2].splitlines()[2:4]]
    assert table == rules
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_bar_on_a_terminal() -> None:
    here, there = pty.openpty()
    arguments = ["--epochs", "1", "--batch-size", "64"]
    with subprocess.Popen([*COMMAND, *arguments], stdout=there, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(there)
        shown = b""
        while part := _read(here):
            shown += part
    os.close(here)
    assert process.returncode == 0
    assert b"\x1b[" in shown
    assert "━".encode() in shown
    assert b"100%" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux's way of saying that the other side has closed
        return b""


def test_every_rule_by_one_word(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a learning rate that was chosen, in a table, a picture and a file."""
    few = ["adamw", "adamwschedulefree", "muon", "prodigy", "sophia"]
    monkeypatch.setattr(fu.rules, "names", lambda: few)
    monkeypatch.setattr(choosing, "GRID", (0.1, 1.0, 3.0))
    assert main(["train", "--rule", "ALL", "--epochs", "2", "--batch-size", "128", "--json", "all.json"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in shown[3:8]] == few
    accuracies = [float(line[3].rstrip("%")) for line in shown[11:16]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert Path("fastupdate-train.png").read_bytes().startswith(b"\x89PNG")
    written = {found["rule"]: found for found in json.loads(Path("all.json").read_text())["rules"]}
    assert list(written) == few
    for name, found in written.items():
        assert len(found["losses"]) == len(found["accuracies"]) == 3
        assert f"{found['lr']:.3g}" == min(found["tried"], key=lambda lr: found["tried"][lr] or math.inf)
        assert found["bytes"] == pytest.approx({"muon": 4.0, "prodigy": 16.0}.get(name, 8.0), abs=0.1), name
        assert found["accuracies"][-1] > 0.5 > found["accuracies"][0], name


def test_the_grid_goes_on_beyond_an_end_that_is_best() -> None:
    tried = dict(zip([0.1, 0.3, 1.0, 3.0, 10.0], [5.0, 4.0, 3.0, 2.0, 1.0], strict=True))
    assert choosing.beyond(tried) == [pytest.approx(10 * 10 / 3)]
    assert choosing.beyond({lr: 1 / loss for lr, loss in tried.items()}) == [pytest.approx(0.1 / 3)]
    assert choosing.beyond({**tried, 1.0: 0.5}) == []
    assert choosing.beyond(dict.fromkeys(tried, math.inf)) == [pytest.approx(0.1 / 3)]


def test_what_is_put_aside_is_not_trained_on(digits: data.Dataset) -> None:
    apart = choosing.put_aside(digits)
    sizes = len(apart.train_images), len(apart.test_images)
    assert sum(sizes) == len(digits.train_images)
    assert sizes[1] == pytest.approx(sizes[0] / 4, abs=1)
    seen = {image.tobytes() for image in apart.train_images}
    assert len([image for image in apart.test_images if image.tobytes() in seen]) <= 2  # the same digit twice


@pytest.mark.parametrize("rule", ["lamb", "muon", "radamschedulefree"])
def test_a_rule_that_plain_numpy_does_not_know(
    rule: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["train", "--rule", rule, "--epochs", "1", "--batch-size", "128"]) == 0
    [row] = [
        line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(rule) and " epoch " not in line
    ]
    assert row[6:9] == ["-", "-", "-"]


@pytest.mark.parametrize("given", [["Adam"], ["--rule", "SGD", "--rule", "sgd", "ADAM"]], ids=" ".join)
def test_rules_in_any_case_each_once(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    expected = {"Adam": ["adam"], "ADAM": ["sgd", "adam"]}[given[-1]]
    given = given if given[0] == "--rule" else ["--rule", *given]
    assert main(["train", *given, "--epochs", "1", "--batch-size", "512"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if " epoch " in line] == expected


@pytest.mark.parametrize(
    ("rule", "lr", "epochs"),
    [("sgd", "1e30", 1), ("adamw", "20", 2), ("rmsprop", "20", 2)],
    ids=str,
)
def test_divergence_is_said_and_fails(rule: str, lr: str, epochs: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Also if the loss is finite, or returns to that of a network that says nothing."""
    arguments = ["--rule", rule, "--lr", lr, "--epochs", "2", "--monitor", "statistics"]
    assert main(["train", *arguments]) == 1
    out, err = capsys.readouterr()
    assert err == f"fastupdate train: {rule} diverged in epoch 1: try a smaller --lr\n"
    assert out.count(" epoch ") == epochs
    assert "nothing wrong" not in out
    assert all(len(line) <= 80 for line in out.partition("curves: ")[0].splitlines())


START = (2.5, 0.1)


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        ([0.5, 0.1], None),
        ([2.4, 2.3], None),  # nothing learned is another fault
        ([100.0, 1.0], None),
        ([2.0, 100.0, 2.3], 2),
        ([2.0, 30.0], 2),
        ([0.1, math.nan], 2),
        ([math.inf], 1),
        ([], None),
    ],
)
def test_what_is_called_diverged(losses: list[float], diverged: int | None) -> None:
    assert run_of("adam", losses).diverged == diverged


def run_of(rule: str, losses: list[float]) -> train.Run:
    return train.Run(rule, 0.1, START, [train.Epoch(loss, 0.5, 1e-5, 2e-4, 0.0, "0123abcd") for loss in losses])


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0.996, "0.9960"), (14704074445133296.0, "1.470e+16"), (4668.4, "4668"), (1e-9, "1.000e-09"), (math.nan, "nan")],
)
def test_losses_have_four_digits(number: float, shown: str) -> None:
    assert report.digits(number) == shown


@pytest.mark.parametrize("width", [32, 40, 60, 80, 200])
def test_table_fits(width: int) -> None:
    """Every column is there at any width, each table with the rules."""
    runs = [run_of("momentum", [1.5e16]), run_of("adam", [0.1])]
    shown = report.format_table(runs, width)
    assert max(map(len, shown.splitlines())) <= width
    tables = [block.splitlines() for block in shown.split("\n\n")[:-1]]
    heads = [table[0].split() for table in tables]
    assert [name for head in heads for name in head[1:]] == [
        "lr",
        "loss",
        "accuracy",
        "update",
        "NumPy",
        "faster",
        "differs",
        "weights",
    ]
    assert all([row.split()[0] for row in [table[0], *table[2:]]] == ["rule", "momentum", "adam"] for table in tables)
    assert (len(tables) == 1) == (width >= 80)


@pytest.mark.parametrize("epochs", [[1], [1, 1], [0, 2], [30, 3], [1] * 22], ids=str)
def test_picture_of_any_length(epochs: list[int], tmp_path: Path) -> None:
    """Each line starts before training, so that one epoch is a line too; an axis shows all of it."""
    runs = [run_of(f"rule{k}", [0.5] * count or [math.nan]) for k, count in enumerate(epochs)]
    figure = report.curves(runs, "title")
    for axes in figure.axes:
        assert [len(line.get_xdata()) for line in axes.lines] == [1 + len(run.epochs) for run in runs]
        assert axes.get_xlim()[0] < 0 < max(epochs) < axes.get_xlim()[1]
    low, high = figure.axes[1].get_ylim()
    assert low < 50 < high < 101
    assert (low < 10) == (max(epochs) <= 3 or min(epochs) <= 3)


class Interrupting(report.LineProgress):
    """Ctrl-C in a step."""

    at = 0

    def step(self) -> None:
        Interrupting.at -= 1
        if not Interrupting.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("at", "rows", "done"),
    [
        (1, [], "sgd 0 of 2, adam 0 of 2"),
        (5, ["sgd"], "sgd 1 of 2, adam 0 of 2"),
        (11, ["sgd", "adam"], "sgd 2 of 2, adam 1 of 2"),
    ],
)
def test_interrupt_leaves_what_there_is(
    at: int, rows: list[str], done: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps an epoch; the table is that of whole epochs."""
    monkeypatch.setattr(report, "LineProgress", Interrupting)
    Interrupting.at = at
    arguments = ["--rule", "sgd", "adam", "--epochs", "2", "--batch-size", "512", "--monitor", "statistics"]
    assert main(["train", *arguments]) == 130
    out, err = capsys.readouterr()
    assert err == f"fastupdate train: interrupted; epochs done: {done}\n"
    table = out.partition("rule ")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in table[2:]] == rows
    assert Path("fastupdate-train.png").exists() == bool(rows)


def test_help_is_quick() -> None:
    """No help text waits for a library that only the training needs."""
    code = (
        "import sys; from fastupdate.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: print({'sklearn', 'rich', 'matplotlib', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--batch-size" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    "arguments",
    [["info"], ["--help"], ["train", "--help"], ["--version"], [], ["train", "--epochs", "3", "--batch-size", "512"]],
    ids=" ".join,
)
@pytest.mark.parametrize(("output", "status"), [("pipe", 141), ("full", 1), ("closed", 0)])
def test_nobody_reads(output: str, status: int, arguments: list[str]) -> None:
    """No traceback, and the status of a Unix tool that a closed pipe has stopped."""
    command = [sys.executable, "-m", "fastupdate", *arguments]
    if output == "closed":
        command = ["sh", "-c", '"$@" >&-', "sh", *command]
    with open("/dev/full", "wb") as full, open_unread_pipe() as pipe:
        stdout = {"pipe": pipe, "full": full, "closed": None}[output]
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == ("fastupdate: error: No space left on device\n" if output == "full" else "")
    assert done.returncode == status


def open_unread_pipe() -> IO[bytes]:
    """The end to write to of a pipe whose other end is closed."""
    there, here = os.pipe()
    os.close(there)
    return os.fdopen(here, "wb", buffering=0)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastupdate {fu.__version__}\n"


def test_bare_call_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: fastupdate ")
    assert all(f"\n    {command} " in shown for command in ("train", "info"))


def test_info_names_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert ", ".join(fu.rules.names()) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rule", "adamm"], "--rule: no rule 'adamm', did you mean adam? there are adabelief, adadelta, "),
        (["--rule", "all", "--lr", "0.1"], "--lr: expected none beside --rule all"),
        (["--rule", "all", "--monitor", "statistics"], "--monitor: expected none beside --rule all"),
        (["--rule", "all", "--json", "no/all.json"], "--json: cannot write no/all.json: No such file"),
        (["--json", "all.json"], "--json: expected --rule all beside it"),
        (["--rule", "Momentun"], "--rule: no rule 'Momentun', did you mean momentum? there are "),
        (["--rule", "sgd", "--rule", "zz"], "--rule: no rule 'zz'; there are "),
        (["--rule"], "argument --rule: expected at least one argument"),
        (["--epochs", "-1"], "argument --epochs: expected a positive integer, received '-1'"),
        (["--epochs", "0"], "argument --epochs: expected a positive integer, received '0'"),
        (["--epochs", "2.5"], "argument --epochs: expected a positive integer, received '2.5'"),
        (["--batch-size", "0"], "argument --batch-size: expected a positive integer, received '0'"),
        (["--threads", "0"], "argument --threads: expected a positive integer, received '0'"),
        (["--lr", "nan"], "argument --lr: expected a finite number above 0, received 'nan'"),
        (["--lr", "inf"], "argument --lr: expected a finite number above 0, received 'inf'"),
        (["--lr", "-1"], "argument --lr: expected a finite number above 0, received '-1'"),
        (["--lr", "fast"], "argument --lr: expected a finite number above 0, received 'fast'"),
        (["--seed", "-1"], "argument --seed: expected an integer, 0 or above, received '-1'"),
        (["--backend", "abacus"], "backend: expected one of "),
        (["--data", "no/such/folder"], "--data: no folder no/such/folder"),
        (["--out", "no/such/folder/curves.png"], "--out: cannot write no/such/folder/curves.png: No such file"),
        (["--out", "curves.pdf"], "--out: expected a file name that ends in .png, received curves.pdf"),
        (["--speed", "9"], "unrecognized arguments: --speed 9"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_get_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    check_refusal(arguments, message, capsys)
    assert not list(tmp_path.iterdir())


def test_no_rule_trains_when_another_one_cannot(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_optimizer = train.make_optimizer

    def refuse_adam(rule: str, *arguments: Any, **options: Any) -> fu.Optimizer:
        if rule == "adam":
            raise DemoError("[adam] backend 'abacus' is not available: lost")
        return make_optimizer(rule, *arguments, **options)

    monkeypatch.setattr(train, "make_optimizer", refuse_adam)
    check_refusal(["--rule", "sgd", "adam"], "[adam] backend 'abacus' is not available: lost", capsys)


@pytest.mark.parametrize("module", ["sklearn.datasets", "matplotlib.figure"])
def test_missing_extra_is_named(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    check_refusal(["--epochs", "1"], "pip install 'fastupdate[demo]'", capsys)


def test_missing_rich_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    check_refusal(["--epochs", "1"], "the progress bar needs rich: pip install 'fastupdate[demo]'", capsys)


def check_refusal(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", *arguments])
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert err.startswith("fastupdate")
    assert ": error: " in err
    assert message in err
    assert err.count("\n") == 1


# -- IDX files --------------------------------------------------------------------------------------------------------


def write_idx(path: Path, array: np.ndarray) -> None:
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_folder(folder: Path, suffix: str = "") -> None:
    """Thirty training and ten test images of 3 x 4 pixels, in three classes that a network can tell apart."""
    for part, count in (("train", 30), ("t10k", 10)):
        labels = np.arange(count) % 3
        images = np.zeros((count, 3, 4))
        images[np.arange(count), labels] = 255
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", labels)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_folder_is_read(suffix: str, tmp_path: Path) -> None:
    write_folder(tmp_path, suffix)
    images = data.load(tmp_path)
    assert images.train_images.shape == (30, 12)
    assert images.test_images.shape == (10, 12)
    assert images.train_images.dtype == np.float32
    assert images.train_images[1].tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 4
    assert images.test_labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert images.classes == 3


def test_idx_folder_is_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path)
    picture = tmp_path / "curves.png"
    assert main(["train", "--data", str(tmp_path), "--batch-size", "8", "--epochs", "5", "--out", str(picture)]) == 0
    assert "epoch 5/5" in capsys.readouterr().out
    assert picture.exists()


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (IMAGES, lambda content: content[:-1], "declares 30 x 3 x 4 bytes of data and holds 359"),
        (IMAGES, lambda content: content + b"\0", "declares 30 x 3 x 4 bytes of data and holds 361"),
        (IMAGES, lambda content: content[:10], "is not an IDX file of bytes in 3 dimension(s)"),
        (IMAGES, lambda content: b"", "is not an IDX file of bytes in 3 dimension(s)"),
        (IMAGES, lambda content: b"\x00\x00\x0d\x03" + content[4:], "is not an IDX file of bytes in 3 dimension(s)"),
        (
            IMAGES,
            lambda content: content[:4] + b"\xff" * 12 + content[16:],
            "declares 4294967295 x 4294967295 x 4294967295 bytes of data and holds 360",
        ),
        (IMAGES, lambda content: content[:4] + struct.pack(">III", 0, 3, 4), "train has no images"),
        (IMAGES, lambda content: content[:4] + struct.pack(">III", 30, 2, 6) + content[16:], None),
        (IMAGES, lambda content: content[:4] + struct.pack(">III", 20, 3, 6) + content[16:], "20 images and 30 labels"),
        (IMAGES, lambda content: content[:4] + struct.pack(">III", 30, 3, 2) + content[16:196], "have 6 pixels, test"),
        (LABELS, lambda content: None, "has neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte.gz"),
        (LABELS, lambda content: content[:7] + b"\x09" + content[8:-1], "t10k has 10 images and 9 labels"),
        (
            LABELS,
            lambda content: content[:15] + b"\xff" + content[16:],
            f"/{LABELS}: image 7 has the label 255, and those to train with end at 2",
        ),
        (
            TRAIN_LABELS,
            lambda content: content[:-1] + b"\xff",
            f"/{TRAIN_LABELS}: image 29 has the label 255, but only 4 ",
        ),
        (TRAIN_LABELS, lambda content: content[:-1] + b"\x05", None),  # labels between them may be missing
    ],
)
def test_malformed_idx_gets_one_line(
    name: str,
    change: Callable[[bytes], bytes | None],
    message: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_folder(tmp_path)
    path = tmp_path / name
    content = change(path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)
    if message is None:
        assert data.load(tmp_path).train_images.shape == (30, 12)
    else:
        check_refusal(["--data", str(tmp_path)], message, capsys)


@pytest.mark.parametrize("damage", [lambda z: z[:-9], lambda z: z[:20] + b"\xff\xff" + z[22:], lambda z: b"no gzip"])
def test_damaged_gzip_gets_one_line(
    damage: Callable[[bytes], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path, ".gz")
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    check_refusal(["--data", str(tmp_path)], f"{path} is damaged: ", capsys)


def test_unreadable_idx_gets_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    write_folder(tmp_path)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DemoError, match=r"--data: cannot read .*: Permission denied"):
        data.load(tmp_path)
