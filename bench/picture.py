"""The measured ratios as a picture."""

from __future__ import annotations

import math
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.contestants import Stream
from bench.tables import Row, duration
from bench.workloads import WORKLOADS

OURS, THEIRS, GREY = "#0b6e99", "#c8553d", "#8a8a8a"


def draw(rows: list[Row], path: Path) -> None:
    """One panel for each recipe and workload; the format follows the suffix of the path."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    sections = [list(members) for _, members in groupby(rows, key=lambda row: (row.recipe, row.workload))]
    columns = min(2, len(sections))
    lines = math.ceil(len(sections) / columns)
    tallest = max(map(len, sections))
    figure, axes = plt.subplots(
        lines, columns, figsize=(6.4 * columns, lines * (1.3 + 0.27 * tallest)), squeeze=False, layout="constrained"
    )
    for ax, section in zip(axes.flat, sections, strict=False):
        panel = _options_panel if section[0].predicted is not None else _peers_panel
        panel(ax, section)
    for ax in axes.flat[len(sections) :]:
        ax.set_axis_off()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _prepare(ax: Any, section: list[Row], label: str) -> None:
    ours = next((row for row in section if row.contestant == Stream.name), section[0]).reference_seconds
    recipe = section[0].recipe.replace(" + bfloat16", "\n+ bfloat16")
    ax.set_title(f"{WORKLOADS[section[0].workload].title} · {recipe}\nfastupdate: {duration(ours)} a step", fontsize=10)
    ax.set_yticks(range(len(section)), [row.contestant for row in section], fontsize=9)
    ax.invert_yaxis()
    ax.axvline(1, color=OURS, linewidth=1.5)
    ax.set_xlabel(label, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)


def _peers_panel(ax: Any, section: list[Row]) -> None:
    """Bars from 1, logarithmic: to the right fastupdate is faster."""
    _prepare(ax, section, "time ÷ fastupdate's time")
    ax.set_xscale("log")
    largest = max(row.high for row in section)
    ax.set_xlim(min(0.7, *(row.low * 0.85 for row in section)), max(3.0, largest * 2.5))
    for k, row in enumerate(section):
        color = GREY if row.difference is None else THEIRS if row.ratio < 1 else OURS
        ax.barh(k, row.ratio - 1, left=1, height=0.62, color=color, alpha=0.85)
        ax.plot([row.low, row.high], [k, k], color="black", linewidth=1)
        ax.text(max(row.high, 1) * 1.08, k, f"{row.ratio:.3g}", va="center", fontsize=9)
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")


def _options_panel(ax: Any, section: list[Row]) -> None:
    """Measured and predicted cost of each option."""
    _prepare(ax, section, "time ÷ plain step's time")
    for k, row in enumerate(section):
        ax.plot([row.low, row.high], [k, k], color=OURS, linewidth=2)
        ax.plot(row.ratio, k, "o", color=OURS, label="measured" if k == 0 else None)
        ax.plot(row.predicted, k, "|", color=THEIRS, markersize=13, markeredgewidth=2, label="bytes" if k == 0 else None)
    ax.grid(axis="x", alpha=0.3)
    ax.legend(frameon=False, fontsize=9)
