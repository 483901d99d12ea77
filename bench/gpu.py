"""fastupdate beside other libraries on a GPU, in one process, taking turns: GPU time, wall time, share of a copy.

Each contestant runs AdamW in float32 over arrays of its own with the same values, and is paired with fastupdate: the
two take turns (A B A B …), a ratio is that of the medians with a 95 % bootstrap interval; above 1, fastupdate was
faster. GPU time lies between two CUDA events around a step that was queued behind a wait, so that launching is not in
it; wall time goes from the call to the end of the work. The copy moves as many bytes as AdamW does (28 for each
parameter) within device memory; the share of the copy is its GPU time over fastupdate's. In the end results are
compared.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastupdate as fu
from bench import machine
from bench.gpu_contestants import RECIPES, Copy, TorchFused
from bench.measuring import Pair, difference
from bench.picture import draw
from bench.tables import BYTES, Absent, Row, duration, losses, short, write_json
from bench.workloads import WORKLOADS, Workload
from fastupdate.engines import choose

WORKLOAD_NAMES = ("huge", "gpt2", "resnet50", "10kx256")
BUDGET = 420.0  # seconds
ROUNDS = 20
GPU, WALL = "GPU time", "wall time"
CYCLES_PER_SECOND = 2e9  # at least as many as any GPU's clock
Clock = Callable[[Any], float]  # the seconds of one step of a contestant


def no_gpu() -> str | None:
    """Why nothing can be measured here; None if it can."""
    try:
        import torch
    except ImportError as error:
        return f"torch, whose events measure, is not installed ({error})"
    return None if torch.cuda.is_available() else "torch finds no CUDA device"


def wall_time(contestant: Any) -> float:
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    contestant.refill()
    wait()
    begin = time.perf_counter()
    contestant.step()
    wait()
    return time.perf_counter() - begin


def gpu_time(contestant: Any) -> float:
    """Between events, on a device that is kept busy until the whole step has been queued."""
    import torch

    seconds = wall_time(contestant)
    contestant.refill()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(int((1e-3 + 2 * seconds) * CYCLES_PER_SECOND))
    start.record()
    contestant.step()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3


def take_turns(ours: Any, peer: Any, clock: Clock, rounds: int) -> Pair:
    """One step each in turn; the first round warms up."""
    times = np.array([[clock(ours), clock(peer)] for _ in range(1 + rounds)])[1:]
    return Pair(times[:, 0], times[:, 1], steps=1)


def compare(
    recipe: str, ours: type[Any], peer: type[Any], workload: Workload, clocks: Mapping[str, Clock], rounds: int
) -> list[Row | Absent]:
    """One row for each clock; both contestants are made for it and freed after it."""
    reason = peer.problem(workload)
    if reason:
        return [Absent(recipe, workload.name, peer.name, reason)]
    a = ours(workload)
    wall_time(a)  # an error of our own is no peer's
    try:
        b = peer(workload)
        wall_time(b)
        pairs = {
            name: take_turns(a, b, clock, rounds)
            for name, clock in clocks.items()
            if name == WALL or peer.timed_by_events
        }
        apart = difference(a, b) if peer.comparable else None
    except Exception as error:  # a peer that breaks must not cost the figures of the others
        return [Absent(recipe, workload.name, peer.name, f"{type(error).__name__}: {error}".splitlines()[0])]
    return [Row.of(f"{recipe}, {name}", workload, peer, pair, apart) for name, pair in pairs.items()]


def measure(
    workloads: list[Workload], clocks: Mapping[str, Clock], rounds: int, budget: float
) -> Iterator[Row | Absent]:
    """All rows; what the budget does not allow for is said to be absent."""
    begin = time.monotonic()
    for workload in workloads:
        for recipe, ours, peers in RECIPES:
            for peer in peers:
                if time.monotonic() - begin > budget:
                    yield Absent(recipe, workload.name, peer.name, f"{budget:.0f} s were over")
                    continue
                yield from compare(recipe, ours, peer, workload, clocks, rounds)
                gc.collect()


# -- what comes out ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """What a figure should be: the ratio at least `least`, or fastupdate's own seconds at most `most`."""

    workload: str
    contestant: str
    recipe: str
    least: float = 0.0
    most: float = math.inf

    def verdict(self, rows: list[Row]) -> str:
        found = [
            r for r in rows if (r.workload, r.contestant, r.recipe) == (self.workload, self.contestant, self.recipe)
        ]
        wanted = f"ratio ≥ {self.least:g}" if self.least else f"fastupdate ≤ {duration(self.most)}"
        what = f"{self.workload}, {self.recipe}, beside {self.contestant}: {wanted}"
        if not found:
            return f"{what}: not measured"
        met = found[0].ratio >= self.least and found[0].reference_seconds <= self.most
        return f"{what}: {short(found[0].ratio)}, {duration(found[0].reference_seconds)}: {'met' if met else 'MISSED'}"


CLIPPED = f"{RECIPES[1][0]}, {GPU}"
GOALS = (
    Goal("huge", Copy.name, f"AdamW, {GPU}", least=0.94),
    Goal("10kx256", TorchFused.name, f"AdamW, {GPU}", most=40e-6),
    Goal("10kx256", TorchFused.name, f"AdamW, {WALL}", least=10),
    Goal("resnet50", TorchFused.name, f"AdamW, {WALL}", least=2),
    *(Goal(name, RECIPES[1][2][1].name, CLIPPED, least=1.4) for name in WORKLOAD_NAMES),
)

COLUMNS = "  {:<34}{:>10}{:>12}{:>8} {:<16}{:>9}  {}"


def table(rows: list[Row], absent: list[Absent]) -> str:
    """All rows by workload and recipe, who did not take part, and the goals."""
    lines: list[str] = []
    for workload, recipe in dict.fromkeys((r.workload, r.recipe) for r in rows):
        section = [r for r in rows if (r.workload, r.recipe) == (workload, recipe)]
        w = WORKLOADS[workload]
        lines += ["", f"{w.title}: {recipe} ({w.elements:,} float32 in {len(w.shapes)} tensors)"]
        lines.append(COLUMNS.format("", "time", "fastupdate", "ratio", "95 %", "of copy", ""))
        copy = next((r.seconds for r in section if r.contestant == Copy.name), math.nan)
        lines += [_line(r, copy) for r in section]
        ours = section[0].reference_seconds
        rate = BYTES * w.elements / ours / 1e12
        lines.append(
            f"  fastupdate: {duration(ours)}; {rate:.3g} TB/s of AdamW's own bytes, {copy / ours:.1%} of the copy"
        )
    lines += ["", "Did not take part:"]
    lines += [f"  {a.contestant} ({a.workload}, {a.recipe}): {a.reason}" for a in absent] or ["  nobody"]
    return "\n".join([*lines, "", "Goals:", *(f"  {goal.verdict(rows)}" for goal in GOALS), "", losses(rows)])


def _line(r: Row, copy: float) -> str:
    apart = "" if r.agrees else f" [results {r.difference:.1e} apart: TOO FAR]"
    interval = f"[{short(r.low)}, {short(r.high)}]"
    share = f"{copy / r.seconds:.1%}"
    times = duration(r.seconds), duration(r.reference_seconds)
    return COLUMNS.format(r.contestant, *times, short(r.ratio), interval, share, r.note + apart).rstrip()


def facts() -> dict[str, str]:
    """The device beside the facts about the machine."""
    import torch

    about, ours = torch.cuda.get_device_properties(0), fu.info()
    driver = Path("/sys/module/nvidia/version")
    gpu = {
        "GPU": f"{about.name}, {about.total_memory / 1e9:.0f} GB, {about.multi_processor_count} multiprocessors",
        "NVIDIA driver": f"{driver.read_text().strip() if driver.exists() else 'unknown'}, CUDA {ours['cuda driver']}",
        "CUDA toolkits": f"{ours['cuda toolkit']} of fastupdate, {torch.version.cuda} of torch",
    }
    return gpu | machine.facts(1)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser("python -m bench.gpu", description=__doc__)
    p.add_argument("--workloads", metavar="A,B", default=",".join(WORKLOAD_NAMES), help="(default: %(default)s)")
    p.add_argument("--budget", type=float, default=BUDGET, help="seconds after which no pair is begun (%(default)s)")
    p.add_argument("--rounds", type=int, default=ROUNDS, help="of each pair (default: %(default)s)")
    p.add_argument("--json", type=Path, metavar="PATH", default=Path("bench/results/gpu.json"), help="%(default)s")
    p.add_argument("--plot", type=Path, metavar="PATH", default=Path("bench/results/gpu.png"), help="%(default)s")
    return p


def main(arguments: list[str] | None = None) -> int:
    """Status 0: measured; 1: some contestant computed something else, or none could run; 2: there is no GPU."""
    args = parser().parse_args(arguments)
    unknown = [name for name in args.workloads.split(",") if name not in WORKLOADS]
    if unknown:
        raise SystemExit(f"--workloads: no {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    problem = no_gpu()
    if problem:
        print(f"bench.gpu: nothing was measured: {problem}", file=sys.stderr)
        return 2
    machine.require_compiled(choose.cuda_problem())
    begin = time.monotonic()
    rows: list[Row] = []
    absent: list[Absent] = []
    clocks = {GPU: gpu_time, WALL: wall_time}
    for found in measure([WORKLOADS[name] for name in args.workloads.split(",")], clocks, args.rounds, args.budget):
        (rows if isinstance(found, Row) else absent).append(found)  # type: ignore[arg-type]
        print(f"{time.monotonic() - begin:4.0f} s  {found.workload}: {found.contestant}", file=sys.stderr)
    report(facts(), rows, absent, args.json, args.plot)
    print(f"\nThat took {time.monotonic() - begin:.0f} s.")
    return 0 if rows and all(r.agrees for r in rows) else 1


def report(about: dict[str, str], rows: list[Row], absent: list[Absent], json: Path, plot: Path) -> None:
    """Prints, and writes the files."""
    print("\n".join(f"{key:<18}{value}" for key, value in about.items()))
    print(table(rows, absent))
    for path in (json, plot):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(json, "gpu", about, rows, absent)
    draw("gpu", rows, plot)


if __name__ == "__main__":
    sys.exit(main())
