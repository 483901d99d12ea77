"""Steps on several processes over MPI beside one of one process; and, on paper, steps on up to 1024 ranks.

In every round each contestant takes one step, in turn; a time is that of the first rank, after a barrier. The paper
starts from what is measured here: seconds that a message, a byte, a copied byte and an element of a step cost. A
network's figures can be put in the place of the first two, which here are those of two processes that share memory.

    python -m bench.mpi --ranks 1 2 4
    python -m bench.mpi --ranks 2 --latency 5e-6 --bandwidth 25e9
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

import fastupdate as fu
from bench import machine
from bench.workloads import WORKLOADS, Shape, gpt2
from fastupdate.sharded.division import Division
from fastupdate.sharded.ranges import Range
from fastupdate.sharded.reader import WORDS

HYPERS: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.01}
BIG = 32 << 20  # bytes of the messages by which bandwidth is measured
MORE_RANKS = (8, 64, 1024)


class Costs(NamedTuple):
    """Seconds that each of these takes: a message, a byte of one, a byte that is copied, an element of AdamW's step."""

    message: float
    byte: float
    copied: float
    element: float


def llama(layers: int, width: int, inner: int, keys: int, words: int) -> list[Shape]:
    """A model of the Llama family (Touvron et al. 2023; grouped queries as of its 70 billion)."""
    block = [(width, width), (keys, width), (keys, width), (width, width)]
    block += [(inner, width), (inner, width), (width, inner), (width,), (width,)]
    return [(words, width), *(block * layers), (width,), (words, width)]


MODELS = {
    "GPT-2 124M": gpt2(),
    "Llama 2 7B": llama(32, 4096, 11008, 4096, 32000),
    "Llama 2 70B": llama(80, 8192, 28672, 1024, 32000),
}


# -- measured, on each rank -------------------------------------------------------------------------------------------


def _timed(comm: Any, steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each, the median of rounds in which they take turns; two rounds more go before."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 2):
        for name, step in steps.items():
            comm.Barrier()
            begin = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - begin)
    return {name: median(seconds[2:]) for name, seconds in times.items()}


def measure(workload: str, rounds: int) -> None:
    """Measures on the ranks that mpiexec has started; the first one prints it as JSON."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    fu.set_num_threads(1)
    shapes = WORKLOADS[workload]
    grads = shapes.gradients()
    lists = [shapes.parameters() for _ in range(4)]
    whole = fu.AdamW(lists[0], **HYPERS)
    plain = fu.sharded.AdamW(lists[1], comm, **HYPERS)
    clipped = fu.sharded.AdamW(lists[2], comm, **HYPERS, clip_norm=1.0)
    pieces = fu.sharded.AdamW(lists[3], comm, **HYPERS, pieces=comm.size)
    steps: dict[str, Callable[[], object]] = {
        "fu.AdamW, all of it on each rank": lambda: whole.step(grads),
        "fu.sharded.AdamW": lambda: plain.step(grads),
        "fu.sharded.AdamW, clip_norm": lambda: clipped.step(grads),
        "fu.sharded.AdamW, pieces": lambda: pieces.step(grads),
    }
    big, other = np.ones(BIG, np.uint8), np.ones(BIG, np.uint8)
    small = np.zeros(2, np.int64)
    partner = comm.rank ^ 1 if comm.rank ^ 1 < comm.size else MPI.PROC_NULL
    costs: dict[str, Callable[[], object]] = {
        "message": lambda: comm.Sendrecv(small[:1], partner, recvbuf=small[1:], source=partner),
        "byte": lambda: comm.Sendrecv(big, partner, recvbuf=other, source=partner),
        "copied": lambda: np.copyto(other, big),
    }
    found = _timed(comm, steps, rounds) | _timed(comm, costs, rounds)
    if comm.rank == 0:
        print(json.dumps(found))


# -- on paper ---------------------------------------------------------------------------------------------------------


def message_of(ranges: list[list[Range]]) -> int:
    """Bytes of the message in which each rank tells its sums. ranges: of each rank, of all tensors."""
    return 8 * WORDS.size * max(sum(len([*r.nodes(WORDS.most)]) for r in of_rank) for of_rank in ranges)


def on_paper(shapes: list[Shape], ranks: int, costs: Costs) -> str:
    """A step of fu.sharded.AdamW with clip_norm, nothing of which overlaps: rings, one message a rank and bucket."""
    arrays = [np.broadcast_to(np.float32(0), shape) for shape in shapes]
    division = Division(arrays, ranks, by_elements=True)
    elements = sum(array.size for array in arrays)
    most = max(sum(r.end - r.begin for r in of_rank) for of_rank in division.ranges)
    buckets, told = len(division.buckets(range(len(arrays)))), message_of(division.ranges)
    sent = 2 * 4 * elements * (ranks - 1) / ranks
    messages = 2 * buckets * (ranks - 1) * costs.message + sent * costs.byte
    small = 2 * math.ceil(math.log2(ranks)) * costs.message + (ranks - 1) * (16 + told) * costs.byte
    copies, step = 2 * 4 * elements * costs.copied, most * costs.element
    figures = [messages, copies, step, small, messages + copies + step + small, messages + elements * costs.element]
    row = "".join(f"{1e3 * seconds:14,.1f}" for seconds in figures)
    return f"{ranks:6}{8 * most / 1e9:12.3f}{sent / 1e9:10.2f}{told:10}{row}"


HEAD = (
    f"{'ranks':>6}{'states, GB':>12}{'sent, GB':>10}{'told, B':>10}{'messages':>14}{'copies':>14}{'own step':>14}"
    f"{'small':>14}{'together':>14}{'all-reduce':>14}"
)
ASSUMED = """On paper, milliseconds of a step of one rank in float32, nothing overlapping: a ring sends each rank's
share of each bucket (ranks − 1) times, for sums and for parameters; every byte is packed and unpacked once; a rank
moves its part; small messages, which the options that look at all gradients need, take log2(ranks) hops. `all-reduce`:
the same messages without shares, nothing packed, and a step of everything on each rank."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--workload", choices=WORKLOADS, default="resnet50")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--latency", type=float, help="seconds of a message, instead of those measured here")
    parser.add_argument("--bandwidth", type=float, help="bytes a second of a rank, likewise")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS], help="to work out on paper")
    parser.add_argument("--measure", action="store_true", help="what mpiexec runs")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.workload, arguments.rounds)
        return
    found: dict[int, dict[str, float]] = {}
    launcher = str(Path(sys.executable).with_name("mpiexec"))
    for ranks in arguments.ranks:
        command = [launcher, "-n", str(ranks), sys.executable, "-m", "mpi4py", "-m", "bench.mpi", "--measure"]
        command += ["--workload", arguments.workload, "--rounds", str(arguments.rounds)]
        found[ranks] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        print(f"{ranks} ranks, {WORKLOADS[arguments.workload].title}:")
        for name, seconds in found[ranks].items():
            if name not in Costs._fields:
                print(f"    {name:36}{1e3 * seconds:12.3f} ms")
    for fact, value in machine.facts(1).items():
        print(f"{fact}: {value}")
    here = found[2 if 2 in found else max(found)]
    element = here["fu.AdamW, all of it on each rank"] / WORKLOADS[arguments.workload].elements
    latency = here["message"] if arguments.latency is None else arguments.latency
    byte = here["byte"] / BIG if arguments.bandwidth is None else 1 / arguments.bandwidth
    costs = Costs(latency, byte, here["copied"] / BIG, element)
    print(f"\n{ASSUMED}")
    print(", ".join(f"{name}: {seconds:.3g} s" for name, seconds in costs._asdict().items()))
    for model in arguments.models:
        print(f"\n{model}\n{HEAD}")
        for ranks in (*arguments.ranks, *MORE_RANKS):
            print(on_paper(MODELS[model], ranks, costs))


if __name__ == "__main__":
    main()
