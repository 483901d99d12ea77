"""Gradients of few rows: `python -m bench.rows [--quick] [--json FILE]`.

A table of 1 000 000 × 128 float32, as of an embedding, is stepped by gradients of which each names 0.1, 1 or 10 % as
many rows as there are, drawn by Zipf's law, so that some are named often. Contestants take turns, in another order in
each round, which has a gradient of its own; before each step its arrays are written anew, as a backward pass does, and
two matrices are multiplied. They are fu.SparseAdam, torch.optim.SparseAdam with the sparse tensors that
nn.Embedding hands it, and a C loop (bench/stream.c) that reads and writes the same rows with trivial arithmetic, told
beforehand in which order, with prefetching and without, whichever is faster. What is wanted: at least 70 % of that
stream and five times torch.

Prediction: torch sorts and copies values, and makes sparse tensors of every intermediate result, each of which costs a
pass over the values and a search in rows; a lazy step sorts indices alone, and reads each row once.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastupdate as fu
from bench import machine
from bench.contestants import STREAM_FACTOR, library
from bench.measuring import Protocol
from bench.tables import duration
from fastupdate.engines import choose

ROWS, LENGTH, EXPONENT = 1_000_000, 128, 1.05
SHARES = (0.001, 0.01, 0.1)
AHEAD = (0, 8)  # rows that the stream fetches before it comes to them
WANTED, FASTER = 0.7, 5.0

Array = NDArray[Any]
Step = Callable[[fu.Rows], Callable[[], object]]  # makes one of a gradient, untimed


def table() -> Array:
    return np.random.default_rng(1).standard_normal((ROWS, LENGTH), np.float32)


def drawn(count: int, seed: int) -> fu.Rows:
    """The gradient of one step."""
    rng = np.random.default_rng(seed)
    weights = np.cumsum(np.arange(1, ROWS + 1) ** -EXPONENT)
    ranks = np.searchsorted(weights, rng.random(count) * weights[-1])
    names = np.random.default_rng(0).permutation(ROWS)  # frequent rows lie anywhere
    return fu.Rows(names[ranks], rng.standard_normal((count, LENGTH), np.float32))


def ours(weights: Array) -> Step:
    opt = fu.SparseAdam([weights])
    for states in opt.state.values():
        states[0][...] = 0.0  # so that steps find their memory, as torch's do
    return lambda rows: lambda: opt.step([rows])


def torchs(weights: Array) -> Step:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    p = torch.nn.Parameter(torch.from_numpy(weights))
    opt = torch.optim.SparseAdam([p])

    def made(rows: fu.Rows) -> Callable[[], object]:
        indices, values = torch.from_numpy(rows.indices)[None], torch.from_numpy(rows.values)
        p.grad = torch.sparse_coo_tensor(indices, values, p.shape, check_invariants=True)
        return opt.step

    return made


class Stream(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("p", "m", "v", "values", "at", "starts", "positions")] + [
        (name, ctypes.c_int64) for name in ("count", "length")
    ]


def stream(weights: Array, ahead: int) -> Step:
    m, v = np.full_like(weights, 0.0), np.full_like(weights, 0.0)
    rows_stream, threads = library().rows_stream, os.cpu_count() or 1

    def made(rows: fu.Rows) -> Callable[[], object]:
        positions = np.argsort(rows.indices, kind="stable")
        at, starts = np.unique(rows.indices[positions], return_index=True)
        starts = np.append(starts, len(positions))
        arrays = (weights, m, v, rows.values, at, starts, positions)
        record = Stream(*(a.ctypes.data for a in arrays), len(at), LENGTH)

        def step() -> object:
            rows_stream(ctypes.byref(record), threads, ctypes.c_int64(ahead), ctypes.c_float(STREAM_FACTOR))
            return arrays

        return step

    return made


def contestants() -> dict[str, Step]:
    return {
        "fastupdate": ours(table()),
        "torch": torchs(table()),
        **{f"stream, {ahead} ahead": stream(table(), ahead) for ahead in AHEAD},
    }


def measure(steps: dict[str, Step], share: float, rounds: int) -> dict[str, Any]:
    """Seconds of a step, medians; and how many rows a gradient touches."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    disturb = Protocol(os.cpu_count() or 1).disturbance()
    everything = fu.Rows(np.arange(ROWS), np.zeros((ROWS, LENGTH), np.float32))
    for made in steps.values():  # rows that nobody has touched for a while are found again slowly on virtual machines
        made(everything)()
    order, rng = list(steps.items()), np.random.default_rng(2)
    for k in range(rounds + 1):
        rows = drawn(int(share * ROWS), 100 + k)
        rng.shuffle(order)  # nobody always comes after the same one, and finds its code in caches, or nothing
        for name, made in order:
            step = made(fu.Rows(rows.indices.copy(), rows.values.copy()))
            disturb()
            begin = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - begin)
    medians = {name: float(np.median(found[1:])) for name, found in times.items()}  # the first one warms up
    floor = min(seconds for name, seconds in medians.items() if name.startswith("stream"))
    return {
        "share": share,
        "distinct": len(np.unique(rows.indices)),
        "seconds": medians,
        "of stream": floor / medians["fastupdate"],
        "over torch": medians["torch"] / medians["fastupdate"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    given = parser.parse_args()
    machine.require_compiled(choose.native_problem())
    print("| named | distinct | fastupdate | stream | torch | of the stream | times torch |")
    print("|---|---|---|---|---|---|---|")
    steps, found = contestants(), []
    for share in SHARES:
        row = measure(steps, share, 3 if given.quick else 21)
        seconds = row["seconds"]
        floor = min(value for name, value in seconds.items() if name.startswith("stream"))
        shown = " | ".join(duration(x) for x in (seconds["fastupdate"], floor, seconds["torch"]))
        ratios = f"{row['of stream']:.0%} | {row['over torch']:.1f}"
        print(f"| {share:.1%} | {row['distinct']} | {shown} | {ratios} |", flush=True)
        found.append(row)
    if given.json:
        about = machine.facts(os.cpu_count() or 1)
        given.json.write_text(json.dumps({"machine": about, "rows": found}, indent=1) + "\n")
    return int(any(row["of stream"] < WANTED or row["over torch"] < FASTER for row in found))


if __name__ == "__main__":
    raise SystemExit(main())
