"""How many threads a step takes inside a training loop: `python -m bench.loops [--quick] [--json FILE]`.

Between two steps stands a product of matrices, whose own threads stay awake for a while, as in every NumPy training
loop. Beside it runs nothing of ours, or a process that keeps one core busy. Contestants are the same AdamW step with
one thread, with all of them, and with as many as the library chooses by measuring; they take turns. What is wanted: the
choice costs at most 1.3 times the better of the two, and its slow tenth (p90) at most 3 times its own median alone.

Prediction: measured teams lose a few per cent to trials, most in the smallest steps; two fixed threads beside a busy
core lose many times that, for a join waits for a thread that has not been scheduled.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import fastupdate as fu
from bench import machine
from bench.tables import duration
from fastupdate.engines import choose

WORK: dict[str, list[tuple[int, ...]]] = {
    "one tensor of 64": [(64,)],
    "161 of 64": [(64,)] * 161,
    "1000 of 64": [(64,)] * 1000,
    "784×512 and 512×256": [(784, 512), (512, 256)],
    "one of 10⁶": [(10**6,)],
    "one of 10⁷": [(10**7,)],
    "one of 10⁸": [(10**8,)],
}
LIMIT = 1.3


def spin() -> None:
    """Keeps a core busy."""
    while True:
        pass


@contextmanager
def neighbour(busy: bool) -> Iterator[None]:
    """A process beside us that keeps one core busy, or none."""
    process = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    if busy:
        process.start()
        time.sleep(1.0)
    try:
        yield
    finally:
        if busy:
            process.kill()
            process.join()


class Loop:
    """Steps of one list with a number of threads, or None for as many as turn out to be best."""

    def __init__(self, shapes: list[tuple[int, ...]], threads: int | None) -> None:
        self.threads = threads
        self.grads = [np.full(shape, 0.01, np.float32) for shape in shapes]
        self.opt = fu.AdamW([np.ones(shape, np.float32) for shape in shapes])
        self.opt.bind(self.grads)
        self.times: list[float] = []

    def turn(self, a: np.ndarray, steps: int) -> None:
        """Some steps, each after a product of matrices."""
        fu.set_num_threads(self.threads)
        for _ in range(steps):
            a @ a
            start = time.perf_counter()
            self.opt.step()
            self.times.append(time.perf_counter() - start)


def measure(shapes: list[tuple[int, ...]], busy: bool, quick: bool) -> dict[str, Any]:
    """Median and slow tenth of a step, for each contestant."""
    every = os.cpu_count() or 1
    loops = {"one thread": Loop(shapes, 1), "all threads": Loop(shapes, every), "measured": Loop(shapes, None)}
    a = np.ones((256, 256), np.float32)
    elements = sum(int(np.prod(shape)) for shape in shapes)
    rounds, steps = (4, 5) if quick else (12, 40 if elements < 10**7 else 6 if elements < 10**8 else 3)
    with neighbour(busy):
        for loop in loops.values():
            loop.turn(a, 2 * steps)  # teams look around
            loop.times.clear()
        for _ in range(rounds):
            for loop in loops.values():
                loop.turn(a, steps)
    fu.set_num_threads(None)
    figures = {k: [float(np.median(v.times)), float(np.quantile(v.times, 0.9))] for k, v in loops.items()}
    best = min(figures["one thread"][0], figures["all threads"][0])
    return {"figures": figures, "ratio": figures["measured"][0] / best}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--only", help="the work whose name contains this")
    given = parser.parse_args()
    machine.require_compiled(choose.native_problem())
    print("| work | beside | one thread | all | measured | p90 | measured / best |\n|---|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for name, shapes in WORK.items():
        for busy in (False, True) if (given.only or "") in name else ():
            found = measure(shapes, busy, given.quick)
            one, every, measured = (found["figures"][k] for k in ("one thread", "all threads", "measured"))
            times = " | ".join(duration(x) for x in (one[0], every[0], *measured))
            print(f"| {name} | {'a busy core' if busy else 'nothing'} | {times} | {found['ratio']:.2f} |", flush=True)
            rows.append({"work": name, "busy": busy, **found})
    if given.json:
        given.json.write_text(
            json.dumps({"machine": machine.facts(os.cpu_count() or 1), "rows": rows}, indent=1) + "\n"
        )
    return int(any(row["ratio"] > LIMIT for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
