"""What was measured as a picture: `python -m bench.picture bench/results/peers.json docs/peers.png --workloads …`.

Pictures are made to be shown 900 pixels wide, on a white ground of their own, which dark pages leave as it is.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill
from typing import Any

from bench.tables import STREAMS, Row, duration, own_row
from bench.workloads import WORKLOADS

OURS, THEIRS, LIGHT, GREY, FAINT = "#0b6e99", "#c8553d", "#8fc1d6", "#8a8a8a", "#d9d9d9"
OWN = "fastupdate"  # the row that states its own time
STREAM = "moving the bytes alone"  # the faster of the streams
YARDSTICKS = (STREAM, "copy")  # which do no arithmetic
WIDTH, BAR, HEAD, TOP = 9.0, 0.27, 0.85, 1.3  # inches: the picture, a bar, what surrounds a panel, title and key
ROOM = {
    (1, False): 4.0,
    (2, False): 4.0,
    (1, True): 25.0,
    (2, True): 200.0,
}  # times the longest bar, for text behind it
MARKS = [10.0**k for k in range(-3, 7)]
FEW = [0.5, 1, 2, 5, 10, 20]  # where nobody is much slower
TITLES = {
    "pipeline": "Whole updates: how many times longer torch's pieces take",
    "options": "AdamW: what each option costs",
    "torch_face": "How many times longer torch's optimizers take",
    "gpu": "AdamW on a GPU: how many times longer than fastupdate's step",
}
ANY = "AdamW: how many times longer other libraries take"
LONGER = "their time ÷ fastupdate's time, with 95 % intervals: the longer the bar, the faster is fastupdate"


@dataclass(frozen=True)
class Panel:
    """Rows that are drawn together."""

    title: str
    rows: list[Row]

    @property
    def own(self) -> float:
        """fastupdate's time, in the pair that tables show."""
        return own_row(self.rows).reference_seconds

    @property
    def recipes(self) -> int:
        """How many things are computed, each of which takes fastupdate a time of its own."""
        return len({row.recipe for row in self.rows})


def panels(mode: str, rows: Iterable[Row]) -> list[Panel]:
    """One for each workload; on a GPU, one for each clock, of the plain step."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        title, recipe = WORKLOADS[row.workload].title, row.recipe
        if mode == "gpu":
            what, _, clock = recipe.partition(", ")
            if what != "AdamW":
                continue
            title, recipe = f"{title}: {clock}", what
        found.setdefault(title, []).append(replace(row, recipe=recipe))
    return [Panel(title, _one_stream(members)) for title, members in found.items()]


def draw(mode: str, rows: list[Row], path: Path) -> None:
    """All panels have the same axis; the format follows the suffix of the path."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shown = panels(mode, rows)
    if not shown:
        return
    each = any(panel.recipes > 1 for panel in shown)  # whether every bar states the time that it is a multiple of
    names = _names(shown, each) if mode != "options" else [row.contestant for row in shown[0].rows]
    columns = 2 if len(shown) > 3 else 1
    lines = math.ceil(len(shown) / columns)
    size = (WIDTH, TOP + lines * (HEAD + BAR * len(names)))
    with plt.rc_context({"font.size": 11, "axes.titlesize": 12}):
        figure, grid = plt.subplots(
            lines, columns, figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained"
        )
        for ax, panel in zip(grid.flat, shown, strict=False):
            (_options_panel if mode == "options" else _peers_panel)(ax, panel, names, each)
            _label(ax, panel, names)
        for ax in grid.flat[len(shown) :]:
            ax.set_axis_off()
        if mode != "options":
            _axis(grid.flat[0], [row for panel in shown for row in panel.rows], ROOM[columns, each])
        _head(figure, mode, shown, size)
        figure.savefig(path, dpi=200, facecolor="white")
    plt.close(figure)


def _axis(ax: Any, rows: list[Row], room: float) -> None:
    """What all panels share: from the shortest bar to the text behind the longest one."""
    from matplotlib.ticker import FixedLocator, NullLocator

    longest = max(row.high for row in rows)
    far = longest > FEW[-1]
    ax.set_xlim(0.85 * min(1.0, *(row.low for row in rows)), (room if far else room / 2) * longest)
    ax.xaxis.set_major_locator(FixedLocator(MARKS if far else FEW))
    ax.xaxis.set_minor_locator(NullLocator())


def _names(shown: list[Panel], each: bool) -> list[str]:
    """Of the bars: fastupdate first where it has a line of its own, then the others, then what does no arithmetic."""
    names = list(dict.fromkeys(row.contestant for panel in shown for row in panel.rows))
    names.sort(key=lambda name: (name in YARDSTICKS, name.startswith(OWN)))
    return names if each else [OWN, *names]


def _one_stream(section: list[Row]) -> list[Row]:
    """The rows with the faster stream alone, under a name that says what it is."""
    streams = sorted((row for row in section if row.contestant in STREAMS), key=lambda row: row.ratio)
    renamed = [replace(row, contestant=STREAM) for row in streams[:1]]
    return [row for row in section if row.contestant not in STREAMS] + renamed


def _head(figure: Any, mode: str, shown: list[Panel], size: tuple[float, float]) -> None:
    """What the picture says, which direction is good, and what the colours mean."""
    direction = "time ÷ the plain step's time" if mode == "options" else LONGER
    drawn = set() if mode == "options" else {_colour(row) for panel in shown for row in panel.rows}
    top = TOP if len(drawn) > 1 else TOP - 0.3
    figure.get_layout_engine().set(rect=(0.01, 0.01, 0.98, 1 - top / size[1]), hspace=0.05)
    figure.text(0.02, 1 - 0.35 / size[1], TITLES.get(mode, ANY), fontsize=16, fontweight="bold", va="center")
    figure.text(0.02, 1 - 0.7 / size[1], direction, fontsize=12, va="center", color="#444444")
    if len(drawn) < 2:
        return
    from matplotlib.patches import Patch

    patches = [Patch(color=colour, label=meaning) for colour, meaning in MEANINGS.items() if colour in drawn]
    figure.legend(
        handles=patches,
        loc="center left",
        bbox_to_anchor=(0.01, 1 - 1.02 / size[1]),
        ncols=len(patches),
        frameon=False,
        fontsize=11,
        handlelength=1.2,
        columnspacing=1.5,
    )


MEANINGS = {
    OURS: "slower than fastupdate",
    THEIRS: "faster",
    LIGHT: "fastupdate, called in another way",
    GREY: "moving as many bytes",
}


def _colour(row: Row) -> str:
    if row.contestant in YARDSTICKS:
        return GREY
    return LIGHT if row.contestant.startswith(OWN) else THEIRS if row.ratio < 1 else OURS


def _label(ax: Any, panel: Panel, names: list[str]) -> None:
    ax.set_title(fill(panel.title, 40), loc="left")
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="x", labelbottom=True)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _peers_panel(ax: Any, panel: Panel, names: list[str], each: bool) -> None:
    """Bars from 1, logarithmic: to the right fastupdate is faster."""
    ax.set_xscale("log")
    ax.grid(axis="x", color=FAINT, linewidth=0.8)
    ax.set_axisbelow(True)
    for row in panel.rows:
        k = names.index(row.contestant)
        ax.barh(k, row.ratio - 1, left=1, height=0.7, color=_colour(row))
        ax.plot([row.low, row.high], [k, k], color="black", linewidth=1)
        text = ax.text(
            max(row.high, 1) * 1.08, k, times(row.ratio), va="center", fontweight="bold" if row.ratio >= 2 else None
        )
        if each:
            of = f" of fastupdate's {duration(row.reference_seconds)}"
            ax.annotate(of, (1, 0.5), xycoords=text, va="center", color="#444444", fontsize=9).set_in_layout(False)
    if not each:
        ax.text(1.08, names.index(OWN), duration(panel.own), va="center", fontweight="bold")
    for name in set(names) - {OWN, *(row.contestant for row in panel.rows)}:
        ax.text(1.08, names.index(name), "not measured", va="center", color=GREY, fontsize=9)
    ax.axvline(1, color="black", linewidth=1.2)
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}×")


def times(ratio: float) -> str:
    """Three digits at most: 1.04×, 5.6×, 36×, 215×."""
    return f"{ratio:.{2 if ratio < 2 else 1 if ratio < 10 else 0}f}×"


def _options_panel(ax: Any, panel: Panel, names: list[str], _: bool) -> None:
    """Measured and predicted cost of each option."""
    for row in panel.rows:
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
    content = json.loads(args.results.read_text())
    rows = [Row(**row) for row in content["rows"]]
    wanted = args.workloads.split(",") if args.workloads else list(dict.fromkeys(row.workload for row in rows))
    draw(content["mode"], [row for name in wanted for row in rows if row.workload == name], args.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
