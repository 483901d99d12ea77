"""What was measured, as rows: printed, and written as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from bench.contestants import Stream
from bench.workloads import WORKLOADS

BYTES = 28  # that AdamW moves per float32 parameter
TOLERANCE = 1e-3  # relative difference between two contestants' results


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
    predicted: float | None = None  # ratio, from the bytes that are moved

    @property
    def agrees(self) -> bool:
        return self.difference is None or self.difference <= TOLERANCE


@dataclass(frozen=True)
class Absent:
    """A contestant that did not take part."""

    recipe: str
    workload: str
    contestant: str
    reason: str


def stream_ratio(rows: Iterable[Row]) -> float | None:
    """The stream's time over fastupdate's: the share of the stream that fastupdate reaches."""
    return next((row.ratio for row in rows if row.contestant == Stream.name), None)


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    scale, unit = next(((s, u) for s, u in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")) if seconds * s >= 1), (1e9, "ns"))
    value = seconds * scale
    return f"{value:.{max(0, 2 - (value >= 10) - (value >= 100))}f} {unit}"


def _line(row: Row, share: float | None) -> str:
    predicted = "" if row.predicted is None else f"{row.predicted:8.2f}"
    part = "" if share is None else f"{share / row.ratio:8.1%}"
    differs = "" if row.agrees else f"  THE RESULTS DIFFER by {row.difference:.1e}"
    interval = f"[{row.low:.2f}, {row.high:.2f}]"
    return (
        f"  {row.contestant:<40}{duration(row.seconds):>9}{duration(row.reference_seconds):>10}{row.ratio:9.2f} "
        f"{interval:<18}{predicted}{part:>8}{row.rounds:5}  {row.note}{differs}"
    )


def _heading(rows: list[Row]) -> str:
    workload = WORKLOADS[rows[0].workload]
    size = f"{len(workload.shapes)} tensors, {workload.elements:,} elements, {workload.working_set / 1e6:,.1f} MB"
    ours = next((row.reference_seconds for row in rows if row.contestant == Stream.name), None)
    share = stream_ratio(rows)
    figures = ""
    if ours is not None and share is not None:
        rate = BYTES * workload.elements / ours / 1e9
        figures = f"\n  fastupdate: {duration(ours)} = {rate:.1f} GB/s = {share:.1%} of the stream"
    last = "predicted" if rows[0].predicted is not None else "of stream" if share is not None else ""
    columns = f"  {'':<40}{'time':>9}{'beside':>10}{'ratio':>9} {'95 %':<18}{last:>8}{'runs':>5}"
    return f"\n{workload.title}: {rows[0].recipe} ({size}){figures}\n{columns}"


def table(rows: list[Row], absent: list[Absent]) -> str:
    """All rows, by recipe and workload; then who did not take part, and where fastupdate was slower."""
    lines = []
    for _, members in groupby(rows, key=lambda row: (row.recipe, row.workload)):
        section = list(members)
        share = stream_ratio(section)
        lines += [_heading(section), *(_line(row, share) for row in section)]
    lines += ["", "Did not take part:"]
    lines += [f"  {a.contestant} ({a.workload}): {a.reason}" for a in absent] or ["  nobody"]
    return "\n".join(lines)


def losses(rows: list[Row]) -> str:
    """Where another library was faster, beyond the interval of the ratio."""
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
