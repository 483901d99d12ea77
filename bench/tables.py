"""What was measured, as rows: printed, and written as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np

from bench.contestants import Stream, StreamDivided
from bench.measuring import Pair
from bench.workloads import WORKLOADS, Workload
from fastupdate import rules

BYTES = 28  # that AdamW moves per float32 parameter
STREAMS = (Stream.name, StreamDivided.name)
NOTEWORTHY = 1e-3  # relative difference between two contestants' results


@dataclass(frozen=True)
class Row:
    """One contestant beside fastupdate; times in seconds per step, medians."""

    recipe: str  # what is computed
    workload: str
    contestant: str
    note: str
    seconds: float
    reference_seconds: float  # of fastupdate, in the same pair
    ratio: float  # seconds / reference_seconds
    low: float  # of the 95 % interval of the ratio
    high: float
    rounds: int
    steps: int  # in each timed run
    difference: float | None  # between the two results, relative; None: not the same computation
    tolerance: float  # of the difference
    predicted: float | None = None  # ratio, from the bytes that are moved

    @classmethod
    def of(cls, recipe: str, workload: Workload, peer: Any, pair: Pair, apart: float | None, **more: Any) -> Self:
        """What a pair of contestants that took turns comes to."""
        ratio = pair.ratio
        return cls(
            recipe=recipe,
            workload=workload.name,
            contestant=peer.name,
            note=peer.note,
            seconds=float(np.median(pair.peer)),
            reference_seconds=float(np.median(pair.reference)),
            ratio=ratio.value,
            low=ratio.low,
            high=ratio.high,
            rounds=len(pair.peer),
            steps=pair.steps,
            difference=apart,
            tolerance=peer.tolerance,
            **more,
        )

    @property
    def agrees(self) -> bool:
        return self.difference is None or self.difference <= self.tolerance


@dataclass(frozen=True)
class Absent:
    """A contestant that did not take part."""

    recipe: str
    workload: str
    contestant: str
    reason: str


def own_row(rows: Iterable[Row]) -> Row:
    """The pair whose time of fastupdate is told as its own: that with the first contestant that computes the same."""
    return max(rows, key=lambda row: row.difference is not None)


def stream_ratio(rows: Iterable[Row]) -> float | None:
    """The share of the stream that fastupdate reaches: the smaller of the streams' ratios, each by its own pair."""
    return min((row.ratio for row in rows if row.contestant in STREAMS), default=None)


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    scale, unit = next(((s, u) for s, u in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")) if seconds * s >= 1), (1e9, "ns"))
    value = seconds * scale
    return f"{value:.{max(0, 2 - (value >= 10) - (value >= 100))}f} {unit}"


def short(ratio: float) -> str:
    """Two decimals, none from 100 on."""
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:.0f}"


COLUMNS = "  {:<40}{:>9}{:>12}{:>9} {:<18}{:>9}{:>6}  {}"


def _line(row: Row, share: float | None) -> str:
    interval = f"[{short(row.low)}, {short(row.high)}]"
    last = "" if share is None else f"{share / row.ratio:.1%}"
    if row.predicted is not None:
        last = f"{row.predicted:.2f}"
    note = row.note
    if row.difference is not None and row.difference > NOTEWORTHY:
        note = f"{note} [results {row.difference:.1e} apart{'' if row.agrees else ': TOO FAR'}]".lstrip()
    return COLUMNS.format(
        row.contestant,
        duration(row.seconds),
        duration(row.reference_seconds),
        short(row.ratio),
        interval,
        last,
        row.rounds,
        note,
    ).rstrip()


def _heading(rows: list[Row]) -> list[str]:
    workload, share = WORKLOADS[rows[0].workload], stream_ratio(rows)
    size = f"{workload.elements:,} float32 in {len(workload.shapes)}; p, g, m, v: {workload.working_set / 1e6:,.4g} MB"
    lines = ["", f"{workload.title}: {rows[0].recipe} ({size})"]
    if share is not None:
        ours = next(row.reference_seconds for row in rows if row.contestant in STREAMS)
        rate = BYTES * workload.elements / ours / 1e9
        lines.append(f"  fastupdate: {duration(ours)} = {rate:.3g} GB/s = {share:.1%} of the stream")
    last = "of bytes" if rows[0].predicted is not None else "of stream" if share is not None else ""
    return [*lines, COLUMNS.format("", "time", "fastupdate", "ratio", "95 %", last, "runs", "").rstrip()]


def table(rows: list[Row], absent: list[Absent]) -> str:
    """All rows, by recipe and workload; then who did not take part, and where fastupdate was slower."""
    lines = []
    for _, members in groupby(rows, key=lambda row: (row.recipe, row.workload)):
        section = list(members)
        share = stream_ratio(section)
        lines += [*_heading(section), *(_line(row, share) for row in section)]
    lines += ["", "Did not take part:"]
    lines += [f"  {a.contestant} ({a.workload}): {a.reason}" for a in absent] or ["  nobody"]
    return "\n".join(lines)


def losses(rows: list[Row]) -> str:
    """Where another library was faster, beyond the interval of the ratio."""
    if not rows:
        return "Nothing was measured: there was nobody to compare with."
    lost = [row for row in rows if row.difference is not None and row.high < 1]
    lines = [f"  {row.contestant}, {row.workload}, {row.recipe}: {row.ratio:.2f}" for row in lost]
    return "\n".join(["Faster than fastupdate:", *(lines or ["  nobody"])])


def write_json(path: Path, mode: str, machine: dict[str, str], rows: list[Row], absent: list[Absent]) -> None:
    """Everything that was measured."""
    content = {
        "mode": mode,
        "machine": machine,
        "rows": [dataclasses.asdict(row) for row in rows],
        "absent": [dataclasses.asdict(a) for a in absent],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def cells_of_rule(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The row of what bench.rules has measured of a rule."""

    def of(peer: Mapping[str, Any]) -> str:
        return ", ".join(f"{short(peer[key]['value'])}×" if key in peer else "-" for key in ("large", "small"))

    optimizer = rules.get(found["rule"])
    return (
        optimizer.__name__,
        str(found["passes"]),
        str(found["bytes"]),
        duration(found["seconds"]),
        f"{found['stream']['value']:.0%}" if optimizer.rule.matrix is None else "-",
        "; ".join(f"{name} {of(peer)}" for name, peer in found["peers"].items()) or "none to time",
    )
