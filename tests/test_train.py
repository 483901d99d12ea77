"""The command `fastupdate train`: what it shows and writes, and what it says of what it cannot do."""

from __future__ import annotations

import json
import math
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest
from refusals import check_refusal

import fastupdate as fu
from fastupdate.cli import main

pytest.importorskip("sklearn", reason="needs the extra 'demo'")
pytest.importorskip("matplotlib", reason="needs the extra 'demo'")
pytest.importorskip("rich", reason="needs the extra 'demo'")

from fastupdate.demo import DemoError, choosing, report, train

pytestmark = pytest.mark.usefixtures("surroundings")

COMMAND = [sys.executable, "-m", "fastupdate", "train"]


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


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which who runs the tests may have left ignored
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = [{script!r}, "info"]
from fastupdate.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("module", ["numpy", "fastupdate.optimizers", "argparse"])
@pytest.mark.parametrize(("script", "quiet"), [("/bin/fastupdate", True), ("train.py", False)])
def test_an_interrupt_before_anything_is_imported(script: str, quiet: bool, module: str) -> None:
    """The command ends by its status alone; in scripts of users, Python raises as ever."""
    code = INTERRUPTED.format(module=module, script=script)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert (done.returncode, done.stderr) == (130, "") if quiet else "KeyboardInterrupt" in done.stderr


@pytest.mark.parametrize("width", [32, 40, 80])
def test_progress_fits(width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with report.LineProgress(len("adamwschedulefree")) as progress:
        progress.start("sgd", 30, 1)
        progress.epoch(1.25, 0.5)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert " ".join(" ".join(lines).split()) == "sgd epoch 1/30 loss 1.250 test accuracy 50.00%"


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
