"""What was measured as a picture: `python -m bench.picture bench/results/peers.json docs/peers.png --workloads …`.

Pictures are made to be shown 900 pixels wide, on a white ground of their own, which dark pages leave as it is.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from bench.tables import STREAMS, Row, duration
from bench.workloads import WORKLOADS

OURS, THEIRS, GREY, FAINT = "#0b6e99", "#c8553d", "#8a8a8a", "#d9d9d9"
OWN = "fastupdate"  # the row that states its own time
STREAM = "moving the bytes alone"  # the faster of the streams
WIDTH, BAR, HEAD, TOP = 9.0, 0.27, 0.85, 1.0  # inches: the picture, a bar, what surrounds a panel, title


def draw(rows: list[Row], path: Path) -> None:
    """One panel for each workload, all with the same axis; the format follows the suffix of the path."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    sections = [_one_stream(list(members)) for _, members in groupby(rows, key=lambda row: row.workload)]
    names = list(dict.fromkeys(row.contestant for section in sections for row in section))
    if rows[0].predicted is None:
        names = [OWN, *sorted(names, key=lambda name: name == STREAM)]  # the stream is last
    columns = 2 if len(sections) > 3 else 1
    lines = math.ceil(len(sections) / columns)
    size = (WIDTH, TOP + lines * (HEAD + BAR * len(names)))
    with plt.rc_context({"font.size": 11, "axes.titlesize": 12}):
        figure, grid = plt.subplots(
            lines, columns, figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained"
        )
        for ax, section in zip(grid.flat, sections, strict=False):
            (_options_panel if section[0].predicted is not None else _peers_panel)(ax, section, names)
            _label(ax, section, names)
        for ax in grid.flat[len(sections) :]:
            ax.set_axis_off()
        if rows[0].predicted is None:
            room = 3.0  # for the text behind the longest bar
            ends = [row.low for section in sections for row in section], [row.high for row in rows]
            grid.flat[0].set_xlim(0.85 * min(1.0, *ends[0]), room * max(ends[1]))
        _head(figure, rows, size)
        figure.savefig(path, dpi=200, facecolor="white")
    plt.close(figure)


def _one_stream(section: list[Row]) -> list[Row]:
    """The rows with the faster stream alone, under a name that says what it is."""
    streams = sorted((row for row in section if row.contestant in STREAMS), key=lambda row: row.ratio)
    renamed = [Row(**{**vars(row), "contestant": STREAM}) for row in streams[:1]]
    return [row for row in section if row.contestant not in STREAMS] + renamed


def _head(figure: Any, rows: list[Row], size: tuple[float, float]) -> None:
    """What the picture says, and which direction is good."""
    if rows[0].predicted is not None:
        title, direction = "AdamW: what each option costs", "time ÷ the plain step's time"
    else:
        whole = rows[0].recipe.split(",")[0] != "AdamW"
        title = (
            "Whole updates: how many times longer torch's pieces take"
            if whole
            else "AdamW: how many times longer other libraries take"
        )
        direction = "their time ÷ fastupdate's time, with 95 % intervals: the longer the bar, the faster is fastupdate"
    figure.get_layout_engine().set(rect=(0.01, 0.01, 0.98, 1 - TOP / size[1]), hspace=0.05)
    figure.text(0.02, 1 - 0.35 / size[1], title, fontsize=16, fontweight="bold", va="center")
    figure.text(0.02, 1 - 0.7 / size[1], direction, fontsize=12, va="center", color="#444444")


def _label(ax: Any, section: list[Row], names: list[str]) -> None:
    ax.set_title(fill(WORKLOADS[section[0].workload].title, 40), loc="left")
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="x", labelbottom=True)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _peers_panel(ax: Any, section: list[Row], names: list[str]) -> None:
    """Bars from 1, logarithmic: to the right fastupdate is faster."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.set_xscale("log")
    ax.grid(axis="x", color=FAINT, linewidth=0.8)
    ax.set_axisbelow(True)
    for row in section:
        k = names.index(row.contestant)
        color = GREY if row.difference is None else THEIRS if row.ratio < 1 else OURS
        ax.barh(k, row.ratio - 1, left=1, height=0.7, color=color)
        ax.plot([row.low, row.high], [k, k], color="black", linewidth=1)
        ax.text(
            max(row.high, 1) * 1.08, k, times(row.ratio), va="center", fontweight="bold" if row.ratio >= 2 else None
        )
    recipes = [list(members) for _, members in groupby(section, key=lambda row: row.recipe)]
    own = [float(np.median([row.reference_seconds for row in members])) for members in recipes]
    ax.text(1.08, names.index(OWN), " and ".join(dict.fromkeys(map(duration, own))), va="center", fontweight="bold")
    for name in set(names) - {OWN, *(row.contestant for row in section)}:
        ax.text(1.08, names.index(name), "not measured", va="center", color=GREY, fontsize=9)
    ax.axvline(1, color="black", linewidth=1.2)
    ax.xaxis.set_major_locator(LogLocator(numticks=20))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}×")
    ax.xaxis.set_minor_formatter(NullFormatter())


def times(ratio: float) -> str:
    """Three digits at most: 1.04×, 5.6×, 36×, 215×."""
    return f"{ratio:.{2 if ratio < 2 else 1 if ratio < 10 else 0}f}×"


def _options_panel(ax: Any, section: list[Row], names: list[str]) -> None:
    """Measured and predicted cost of each option."""
    for row in section:
        k = names.index(row.contestant)
        ax.plot(
            row.predicted, k, "|", color=THEIRS, markersize=14, markeredgewidth=2.5, label=k or "predicted from bytes"
        )
        ax.plot([row.low, row.high], [k, k], color=OURS, linewidth=2)
        ax.plot(row.ratio, k, "o", color=OURS, markersize=5, label=k or "measured")
    ax.grid(axis="x", color=FAINT)
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}×")
    handles, _ = ax.get_legend_handles_labels()
    ax.legend(handles=handles[:2], frameon=False)


def main(arguments: list[str] | None = None) -> int:
    """Draws what a benchmark wrote."""
    p = argparse.ArgumentParser("python -m bench.picture", description="Draws what a benchmark has measured.")
    p.add_argument("results", type=Path, help="what --json of bench.peers has written")
    p.add_argument("picture", type=Path, help="where to draw it (.png, .svg, .pdf)")
    p.add_argument("--workloads", metavar="A,B", help="these alone, in this order (default: all)")
    args = p.parse_args(arguments)
    rows = [Row(**row) for row in json.loads(args.results.read_text())["rows"]]
    wanted = args.workloads.split(",") if args.workloads else list(dict.fromkeys(row.workload for row in rows))
    draw([row for name in wanted for row in rows if row.workload == name], args.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
