"""The measured ratios as a picture."""

from __future__ import annotations

import math
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.tables import Row, duration, short
from bench.workloads import WORKLOADS

OURS, THEIRS, GREY = "#0b6e99", "#c8553d", "#8a8a8a"


def draw(rows: list[Row], path: Path) -> None:
    """One panel for each workload, all with the same axis; the format follows the suffix of the path."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    sections = [list(members) for _, members in groupby(rows, key=lambda row: row.workload)]
    columns = min(2, len(sections))
    lines = math.ceil(len(sections) / columns)
    tallest = max(map(len, sections))
    size = (7.5 * columns, lines * (0.9 + 0.28 * tallest))
    figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False, sharex=True, layout="constrained")
    for ax, section in zip(grid.flat, sections, strict=False):
        (_options_panel if section[0].predicted is not None else _peers_panel)(ax, section)
        _label(ax, section, tallest)
    if rows[0].predicted is None:
        room = 20  # for the text behind the longest bar
        grid.flat[0].set_xlim(0.9 * min(1, *(row.low for row in rows)), room * max(row.high for row in rows))
    for ax in grid.flat[len(sections) :]:
        ax.set_axis_off()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _label(ax: Any, section: list[Row], tallest: int) -> None:
    ax.set_title(f"{WORKLOADS[section[0].workload].title}", fontsize=11, loc="left")
    ax.set_yticks(range(len(section)), [row.contestant for row in section], fontsize=9)
    ax.set_ylim(tallest - 0.5, -0.5)  # bars of one height in all panels
    ax.tick_params(axis="x", labelbottom=True)
    ax.spines[["top", "right"]].set_visible(False)


def _peers_panel(ax: Any, section: list[Row]) -> None:
    """Bars from 1, logarithmic: to the right fastupdate is faster."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.set_xscale("log")
    for k, row in enumerate(section):
        color = GREY if row.difference is None else THEIRS if row.ratio < 1 else OURS
        ax.barh(k, row.ratio - 1, left=1, height=0.66, color=color, alpha=0.85)
        ax.plot([row.low, row.high], [k, k], color="black", linewidth=1)
        text = f" {short(row.ratio)}   ({duration(row.seconds)} : {duration(row.reference_seconds)})"
        ax.text(max(row.high, 1), k, text, va="center", fontsize=8.5)
    ax.axvline(1, color="black", linewidth=1)
    ax.xaxis.set_major_locator(LogLocator(numticks=20))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("time ÷ fastupdate's time   (time : fastupdate's time)", fontsize=9)


def _options_panel(ax: Any, section: list[Row]) -> None:
    """Measured and predicted cost of each option."""
    for k, row in enumerate(section):
        ax.plot(
            row.predicted, k, "|", color=THEIRS, markersize=14, markeredgewidth=2.5, label=k or "predicted from bytes"
        )
        ax.plot([row.low, row.high], [k, k], color=OURS, linewidth=2)
        ax.plot(row.ratio, k, "o", color=OURS, markersize=5, label=k or "measured")
    ax.grid(axis="x", alpha=0.3)
    handles, _ = ax.get_legend_handles_labels()
    ax.legend(handles=handles[:2], frameon=False, fontsize=9)
    ax.set_xlabel("time ÷ plain step's time", fontsize=9)
