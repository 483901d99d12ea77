"""The tables of measured figures in the README and the pages are what bench/results/*.json says, cell by cell."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # `bench` is no part of the package

from bench.picture import times  # noqa: E402
from bench.tables import Row, cells_of_rule, duration, own_row, stream_ratio  # noqa: E402
from bench.workloads import WORKLOADS  # noqa: E402


def results(name: str) -> list[dict[str, Any]]:
    return json.loads((ROOT / f"bench/results/{name}.json").read_text())["rows"]


def rows(name: str, **wanted: str) -> list[Row]:
    found = [Row(**row) for row in results(name)]
    return [row for row in found if all(getattr(row, field) == value for field, value in wanted.items())]


def one(name: str, **wanted: str) -> Row:
    [row] = rows(name, **wanted)
    return row


def title(row: Row) -> str:
    return WORKLOADS[row.workload].title


def interval(row: Row) -> str:
    return f"{row.low:.3g}–{row.high:.3g}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}".replace("%", " %")


def peers() -> list[tuple[str, ...]]:
    lines = []
    for workload in dict.fromkeys(row.workload for row in rows("peers")):
        members = rows("peers", workload=workload)
        by_name = {row.contestant: row for row in members}
        own, others = own_row(members), [by_name.get(name) for name in ("DeepSpeed CPUAdam", "optax jit", "NumPy")]
        assert own.contestant == "torch fused"
        ratios = [times(row.ratio) if row else "" for row in others]
        measured = duration(own.reference_seconds), duration(own.seconds), f"**{times(own.ratio)}**", interval(own)
        lines.append((title(own), *measured, *ratios, percent(stream_ratio(members))))
    return lines


def calls() -> list[tuple[str, ...]]:
    return [
        (
            row.recipe,
            title(row),
            row.contestant,
            duration(row.reference_seconds),
            duration(row.seconds),
            times(row.ratio),
            interval(row),
        )
        for row in rows("calls")
    ]


def pipelines() -> list[tuple[str, ...]]:
    return [
        (
            title(row),
            row.contestant,
            duration(row.seconds),
            duration(row.reference_seconds),
            times(row.ratio),
            interval(row),
        )
        for row in rows("pipeline")
    ]


def options() -> list[tuple[str, ...]]:
    return [
        (row.contestant, f"{row.ratio:.2f}", f"{row.low:.2f}–{row.high:.2f}", f"{row.predicted:.2f}")
        for row in rows("options")
    ]


def loops() -> list[tuple[str, ...]]:
    lines = []
    for row in results("loops"):
        one_thread, every, measured = (row["figures"][name] for name in ("one thread", "all threads", "measured"))
        shown = map(duration, (one_thread[0], every[0], *measured))
        lines.append((row["work"], "a busy core" if row["busy"] else "nothing", *shown, f"{row['ratio']:.2f}"))
    return lines


def torch_face() -> list[tuple[str, ...]]:
    return [(row.recipe, title(row), row.contestant, times(row.ratio), interval(row)) for row in rows("torch_face")]


def sparse() -> list[tuple[str, ...]]:
    lines = []
    for row in results("rows"):
        seconds = row["seconds"]
        loop = min(value for name, value in seconds.items() if name.startswith("stream"))
        known = map(duration, (seconds["fastupdate"], loop, seconds["torch"]))
        share, named = percent(row["of stream"]), f"{row['share']:.1%}".replace("%", " %")
        lines.append((named, f"{row['distinct']}", *known, share, f"{row['over torch']:.1f}"))
    return lines


def every_rule() -> list[tuple[str, ...]]:
    return [tuple(cell.replace("%", " %") for cell in cells_of_rule(row)) for row in results("rules")]


def ranks() -> list[tuple[str, ...]]:
    """Milliseconds of a training step, and of the optimizer's part of it, by the number of ranks."""
    lines, found = [], results("ranks")
    for engine, contestant in dict.fromkeys((row["engine"], row["contestant"]) for row in found):
        of = [row for row in found if (row["engine"], row["contestant"]) == (engine, contestant)]
        shown = [f"{1e3 * row['seconds']:.0f} / {1e3 * row['step']:.0f}" for row in of]
        messages, sent = of[-1]["messages"], f"{of[-1]['sent']:,}".replace(",", " ")
        lines.append((engine, contestant, *shown, f"{messages}, {sent}" if messages else "none"))
    return lines


def gpu() -> list[tuple[str, ...]]:
    lines = []
    for recipe, workload in dict.fromkeys((row.recipe, row.workload) for row in rows("gpu")):
        members = rows("gpu", recipe=recipe, workload=workload)
        own, (what, _, clock) = own_row(members), recipe.partition(", ")
        others = {row.contestant: times(row.ratio) for row in members}
        copied = percent(next(row.ratio for row in members if row.contestant == "copy")) if clock == "GPU time" else ""
        known = duration(own.reference_seconds), own.contestant, times(own.ratio)
        lines.append((title(own), what, clock, *known, others.get("torch compiled", ""), copied))
    return lines


def own_rules() -> list[tuple[str, ...]]:
    return [
        (
            row.recipe,
            title(row),
            duration(row.reference_seconds),
            duration(row.seconds),
            f"{row.ratio:.2f}",
            f"{row.low:.2f}–{row.high:.2f}",
        )
        for row in rows("own_rules")
    ]


TABLES: dict[str, tuple[str, str, Callable[[], list[tuple[str, ...]]]]] = {
    "peers": ("README.md", "| work | fastupdate | torch fused |", peers),
    "calls": ("docs/performance.md", "| call | tensors |", calls),
    "pipelines": ("docs/performance.md", "| work | recipe | torch |", pipelines),
    "options": ("docs/performance.md", "| option | measured |", options),
    "loops": ("docs/performance.md", "| work | beside | one thread |", loops),
    "torch's face": ("docs/torch.md", "| rule and options | tensors |", torch_face),
    "rows": ("docs/sparse.md", "| named | rows |", sparse),
    "own rules": ("docs/own_rules.md", "| float32, one thread |", own_rules),
    "every rule": ("docs/performance.md", "| rule | passes |", every_rule),
    "ranks": ("docs/sharded.md", "| engine | step |", ranks),
    "gpu": ("docs/gpu.md", "| work | step | clock |", gpu),
}


def line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |".replace("  ", " ")


@pytest.mark.parametrize(("page", "head", "expected"), TABLES.values(), ids=TABLES)
def test_tables_are_what_was_measured(page: str, head: str, expected: Callable[[], list[tuple[str, ...]]]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text.count(f"\n{head}") == 1
    table = text[text.index(f"\n{head}") + 1 :].partition("\n\n")[0].splitlines()[2:]
    assert table == [line(cells) for cells in expected()]


def milliseconds(name: str, **wanted: str) -> tuple[str, str]:
    """Of fastupdate, and of the other."""
    row = one(name, **wanted)
    return f"{1e3 * row.reference_seconds:.2f}", f"{1e3 * row.seconds:.2f}"


def told() -> list[tuple[str, str]]:
    """What pages say in sentences."""
    plain = milliseconds("gpu", workload="resnet50", recipe="AdamW, GPU time", contestant="torch fused")
    clip = milliseconds("gpu", workload="resnet50", recipe="unscale + clip + AdamW, GPU time", contestant=CLIPPED)
    face = {row.workload: times(row.ratio) for row in rows("torch_face", recipe="AdamW", contestant="torch fused")}
    whole = [times(row.ratio) for row in rows("pipeline", contestant="torch pipeline, the same statistics")]
    bound = one("calls", recipe="bound step", contestant="torch fused")
    ours, theirs = duration(bound.reference_seconds), duration(bound.seconds)
    function = one("calls", recipe="bound step, lr a Python function").reference_seconds
    return [
        ("README.md", f"in {plain[0]} ms of GPU time where torch's fused one takes {plain[1]}"),
        ("README.md", f"with unscaling and clipping in {clip[0]} where torch takes {clip[1]}"),
        (
            "README.md",
            f"{face['161x64']} on 161 tensors of 64, {face['10kx64']} on 10 000, {face['resnet50']} on ResNet-50's",
        ),
        ("README.md", f"{whole[0]} on GPT-2's tensors, {whole[1]} on ResNet-50's, {whole[2]} on 10 000 of 64"),
        ("README.md", f"a bound step of 64 elements takes {ours}, torch's fused {theirs}"),
        (
            "docs/troubleshooting.md",
            f"takes {1e6 * function:.0f} µs with one, and {1e6 * bound.reference_seconds:.1f} µs without",
        ),
    ]


CLIPPED = "torch unscale + clip + fused"


@pytest.mark.parametrize(("page", "sentence"), told())
def test_sentences_are_what_was_measured(page: str, sentence: str) -> None:
    assert sentence in " ".join((ROOT / page).read_text(encoding="utf-8").split())
