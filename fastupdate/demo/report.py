"""What the user sees: progress while training, then a table and a picture."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from fastupdate.demo import DemoError, require
from fastupdate.demo.train import Run


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
        line = f"{self._rule:{self._width}}  epoch {epoch}  loss {loss:.4f}  test accuracy {accuracy:.2%}"
        print(line, flush=True)  # at once, also into a pipe

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class BarProgress:
    def __init__(self, width: int) -> None:
        rich = require("rich.progress", "the progress bar")
        self._bars: Any = rich.Progress(
            rich.TextColumn(f"{{task.description:{width}}}"),
            rich.BarColumn(bar_width=24),
            rich.TaskProgressColumn(),
            rich.TextColumn("{task.fields[figures]}"),
            rich.TimeElapsedColumn(),
        )

    def start(self, rule: str, epochs: int, steps: int) -> None:
        self._task = self._bars.add_task(rule, total=steps, figures="")

    def step(self) -> None:
        self._bars.advance(self._task)

    def epoch(self, loss: float, accuracy: float) -> None:
        self._bars.update(self._task, figures=f"loss {loss:.4f}  test {accuracy:.2%}")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()


def format_table(runs: Sequence[Run]) -> str:
    """One line per rule, and what the columns mean."""
    head = ["rule", "lr", "loss", "accuracy", "update", "NumPy", "faster", "differs", "weights"]
    rows = [
        [
            run.rule,
            f"{run.lr:g}",
            f"{run.losses[-1]:.4f}",
            f"{run.accuracies[-1]:.2%}",
            f"{run.update_seconds * 1e6:.1f} us",
            f"{run.numpy_seconds * 1e6:.1f} us",
            f"{run.numpy_seconds / run.update_seconds:.1f}x",
            f"{run.difference:.1g}",
            run.digest,
        ]
        for run in runs
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in [head, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", _EXPLANATION])


_EXPLANATION = """\
update   median time in which one step updates all weights
NumPy    the same for plain NumPy, which applies the same formula to a copy of the
         weights, right after the update and with the same gradients
differs  the largest distance between a weight and its copy at the end
weights  the beginning of their SHA-256"""


def check_writable(path: Path) -> None:
    """Find out before the training, not after it, whether the picture can be written."""
    if path.suffix.lower() != ".png":
        raise DemoError(f"--out: expected a file name that ends in .png, received {path}")
    existed = path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise DemoError(f"--out: cannot write {path}: {error.strerror}") from error
    if not existed:
        path.unlink()
    require("matplotlib.figure", "the picture")


def draw_curves(runs: Sequence[Run], title: str, path: Path) -> None:
    """Loss and accuracy by epoch, a line for each rule, as a PNG."""
    figure = require("matplotlib.figure", "the picture").Figure(figsize=(10, 4.2), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for run, style in zip(runs, _styles(len(runs)), strict=True):
        epochs = range(1, len(run.losses) + 1)
        loss.plot(epochs, run.losses, label=run.rule, **style)
        accuracy.plot(epochs, [100.0 * share for share in run.accuracies], **style)
    loss.set(yscale="log", ylabel="training loss (mean over the epoch)")
    accuracy.set(ylabel="test accuracy (%)", ylim=(_lowest_shown(runs), None))
    for axes in (loss, accuracy):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.legend(loc="outside right upper", frameon=False, ncols=math.ceil(len(runs) / 16))
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise DemoError(f"--out: cannot write {path}: {error.strerror}") from error


def _lowest_shown(runs: Sequence[Run]) -> float:
    """Where the accuracy axis begins, in percent: the first tenth of a training would squeeze the rest."""
    settled = [min(run.accuracies[len(run.accuracies) // 10 :]) for run in runs]
    return max(100.0 * min(settled) - 1.0, 0.0)


def _styles(count: int) -> list[dict[str, Any]]:
    """Colours that stay apart: ten that differ in kind, and dashes for the next ten, and so on."""
    dashes = ("-", "--", ":", "-.")
    return [
        {"color": f"C{k % 10}", "linestyle": dashes[k // 10 % 4], "linewidth": 1.6, "alpha": 0.9} for k in range(count)
    ]
