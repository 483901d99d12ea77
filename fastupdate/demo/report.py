"""What the user sees: progress while training, then a table and a picture."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import Any, Self

from fastupdate.demo import DemoError, require
from fastupdate.demo.train import Run

WIDTH = 80  # characters of a terminal that has room for everything
SHORT = 4  # epochs below which a picture shows all of a training


def make_progress(rules: Sequence[str]) -> BarProgress | LineProgress:
    """A moving bar per rule where somebody watches, a line per epoch in a pipe or a file."""
    width = max(map(len, rules))
    return BarProgress(width) if sys.stdout.isatty() else LineProgress(width)


class LineProgress:
    def __init__(self, width: int) -> None:
        self._width = width

    def start(self, rule: str, epochs: int, steps: int) -> None:
        self._rule, self._epochs, self._done = rule, epochs, 0

    def step(self) -> None:
        pass

    def epoch(self, loss: float, accuracy: float) -> None:
        self._done += 1
        epoch = f"{self._done:{len(str(self._epochs))}}/{self._epochs}"
        figures = (f"epoch {epoch}", f"loss {digits(loss):<9}", f"test accuracy {accuracy:.2%}")
        lines = [f"{self._rule:{self._width}}"]
        for figure in figures:
            if len(lines[-1]) + 2 + len(figure) > terminal_width():
                lines.append("")
            lines[-1] += f"  {figure}"
        print("\n".join(lines), flush=True)  # at once, also into a pipe

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class BarProgress:
    def __init__(self, width: int) -> None:
        rich = require("rich.progress", "the progress bar")
        bar = rich.BarColumn(bar_width=24 if terminal_width() >= WIDTH else 6)
        time = [rich.TimeElapsedColumn()] if terminal_width() >= WIDTH else []
        text = [rich.TextColumn(f"{{task.{name}}}") for name in (f"description:{width}", "fields[figures]")]
        self._bars: Any = rich.Progress(text[0], bar, rich.TaskProgressColumn(), text[1], *time)

    def start(self, rule: str, epochs: int, steps: int) -> None:
        self._task = self._bars.add_task(rule, total=steps, figures="")

    def step(self) -> None:
        self._bars.advance(self._task)

    def epoch(self, loss: float, accuracy: float) -> None:
        self._bars.update(self._task, figures=f"loss {digits(loss)}  test {accuracy:.2%}")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()


def terminal_width() -> int:
    """In characters; WIDTH where there is no terminal."""
    return get_terminal_size((WIDTH, 24)).columns


def digits(number: float) -> str:
    """Four significant digits."""
    return f"{number:#.4g}".rstrip(".")


def format_table(runs: Sequence[Run], width: int) -> str:
    """One line per rule, and what the columns mean. Columns for which a line has no room go into another table."""
    cells = [_cells(run) for run in runs]
    columns = {name: [name, *(row[name] for row in cells)] for name in cells[0]}
    widths = {name: max(map(len, column)) for name, column in columns.items()}
    blocks: list[list[str]] = [["rule"]]
    for name in list(columns)[1:]:
        if sum(2 + widths[other] for other in [*blocks[-1], name]) - 2 > width:
            blocks.append(["rule"])
        blocks[-1].append(name)
    tables = []
    for block in blocks:
        aligned = [[cell.rjust(widths[name]) for cell in columns[name]] for name in block]
        aligned[0] = [cell.ljust(widths["rule"]) for cell in columns["rule"]]
        head, *lines = ["  ".join(row) for row in zip(*aligned, strict=True)]
        tables.append("\n".join([head, "-" * len(head), *lines]))
    meanings = [
        fill(text, min(width, WIDTH), initial_indent=f"{name:<9}", subsequent_indent=" " * 9)
        for name, text in MEANINGS.items()
    ]
    return "\n\n".join([*tables, "\n".join(meanings)])


def _cells(run: Run) -> dict[str, str]:
    last = run.last
    return {
        "rule": run.rule,
        "lr": f"{run.lr:.4g}",
        "loss": digits(last.loss),
        "accuracy": f"{last.accuracy:.2%}",
        "update": f"{last.update_seconds * 1e6:.1f} us",
        "NumPy": _unless_nan(f"{last.numpy_seconds * 1e6:.1f} us"),
        "faster": _unless_nan(f"{last.numpy_seconds / last.update_seconds:.1f}x"),
        "differs": _unless_nan(f"{last.difference:.1g}"),
        "weights": last.digest,
    }


def _unless_nan(cell: str) -> str:
    """A cell of a comparison that there may be none of."""
    return "-" if cell.startswith("nan") else cell


MEANINGS = {
    "update": "median time in which one step updates all weights",
    "NumPy": "the same for plain NumPy, which applies the same formula to a copy of the weights, right after the "
    "update and with the same gradients; it knows no rules whose steps depend on sums",
    "differs": "the largest distance between a weight and its copy at the end",
    "weights": "the beginning of their SHA-256",
}


def findings(runs: Sequence[Run]) -> list[str]:
    """What the monitor says about each run; a run that diverged is not called healthy."""
    return [
        f"{run.rule}: {line}"
        for run in runs
        for line in ([*map(str, run.findings)] or ([] if run.diverged else ["nothing wrong is found"]))
    ]


def problems(runs: Sequence[Run], epochs: int, interrupted: bool) -> list[str]:
    """What went wrong in a comparison, a line each."""
    lost = [f"{run.rule} diverged in epoch {run.diverged}: try a smaller --lr" for run in runs if run.diverged]
    done = ", ".join(f"{run.rule} {len(run.epochs)} of {epochs}" for run in runs)
    return [*lost, f"interrupted; epochs done: {done}"] if interrupted else lost


def check_writable(path: Path) -> None:
    """Find out before the training, not after it, whether the picture can be written."""
    if path.suffix.lower() != ".png":
        raise DemoError(f"--out: expected a file name that ends in .png, received {path}")
    check_opens("--out", path)
    require("matplotlib.figure", "the picture")


def check_opens(option: str, path: Path) -> None:
    """The same of any file."""
    existed = path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise DemoError(f"{option}: cannot write {path}: {error.strerror}") from error
    if not existed:
        path.unlink()


def draw_curves(runs: Sequence[Run], title: str, path: Path) -> None:
    """Loss and accuracy by epoch as a PNG."""
    try:
        curves(runs, title).savefig(path, dpi=150)
    except OSError as error:
        raise DemoError(f"--out: cannot write {path}: {error.strerror}") from error


def curves(runs: Sequence[Run], title: str) -> Any:
    """A figure with loss and accuracy by epoch, from before the first one, a line for each rule."""
    figure = require("matplotlib.figure", "the picture").Figure(figsize=(10, 4.2), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for run, style in zip(runs, _styles(len(runs)), strict=True):
        epochs = range(1 + len(run.epochs))
        loss.plot(epochs, [run.start[0], *(epoch.loss for epoch in run.epochs)], label=_label(run), **style)
        accuracy.plot(epochs, [100 * run.start[1], *(100 * epoch.accuracy for epoch in run.epochs)], **style)
    loss.set(yscale="log", ylabel="training loss (mean over the epoch)")
    between = require("matplotlib.ticker", "the picture").LogFormatter(labelOnlyBase=False)  # 2, 3 … if 1, 10 … are few
    loss.yaxis.set(major_formatter=lambda y, _: f"{y:g}", minor_formatter=between)
    accuracy.set(ylabel="test accuracy (%)", ylim=_accuracies_shown(runs))
    longest = max(len(run.epochs) for run in runs)
    for axes in (loss, accuracy):
        axes.set(xlabel="epoch (0: before the first step)", xlim=(-0.03 * longest, 1.03 * longest))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.legend(loc="outside right upper", frameon=False, ncols=math.ceil(len(runs) / 16))
    return figure


def _label(run: Run) -> str:
    return f"{run.rule} (diverged)" if run.diverged else run.rule


def _accuracies_shown(runs: Sequence[Run]) -> tuple[float, float]:
    """Both ends of the accuracy axis, in percent; the first tenth of a long training would squeeze the rest."""
    shown = [100.0 * epoch.accuracy for run in runs for epoch in run.epochs[len(run.epochs) // 10 :]]
    if min(len(run.epochs) for run in runs) < SHORT:
        shown += [100.0 * run.start[1] for run in runs]
    margin = 0.05 * (max(shown) - min(shown)) + 0.5
    return max(min(shown) - margin, 0.0), min(max(shown) + margin, 100.5)


def _styles(count: int) -> list[dict[str, Any]]:
    """Colours that stay apart: ten that differ in kind, and dashes for the next ten, and so on."""
    dashes = ("-", "--", ":", "-.")
    common = {"linewidth": 1.6, "alpha": 0.9, "marker": "."}
    return [{"color": f"C{k % 10}", "linestyle": dashes[k // 10 % 4], **common} for k in range(count)]
