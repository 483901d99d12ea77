"""Steps on parameters that ranks share, beside torch's; and what the ranks tell each other for a norm.

Each of several processes (gloo) has its part of each tensor, as FSDP2 would cut it, and gradients that are there. In
every round each contestant takes one step, in turn; a time is that of the first rank, after a barrier. What is told is
worked out, not measured: the bytes that a rank sends in a step for `clip_norm`, for the sums of LAMB and for `monitor`,
also on more ranks than are run. A rank tells of its blocks in as few nodes of the folding as keep the order of sums.

    python -m bench.ranks --ranks 1 2 4
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import fastupdate as fu
from bench import machine
from bench.workloads import WORKLOADS, Workload
from fastupdate.engines.records import SUMS
from fastupdate.sharded.cells import Blocks, cut
from fastupdate.sharded.cells import nodes as aligned
from fastupdate.sharded.ranges import Range
from fastupdate.sharded.reader import FIELDS

MORE_RANKS = (8, 64, 1024)  # of which what is told is worked out
HYPERS: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.01}
MAX_NORM = 1.0
LAMB_SUMS = len(fu.Lamb.rule.phases[0].sums)
LAMB_ARRAYS = 4  # gradient, weight and two states, as of AdamW


def parts(shape: tuple[int, ...], ranks: int) -> list[Range]:
    """The ranges of a tensor that is cut along its first axis into parts of equal length, the last ones shorter."""
    n, rows = int(np.prod(shape)), shape[0]
    length, row = -(-rows // ranks), n // max(rows, 1)
    cuts = [min(k * length, rows) * row for k in range(ranks + 1)]
    return [Range(begin, end, n) for begin, end in pairwise(cuts)]


def told(workload: Workload, ranks: int) -> str:
    """What a rank sends at most in a step for sums over blocks: elements of cut ones to who sums them, sums to all."""
    summed, lent, sums, nodes = (np.zeros(ranks, np.int64) for _ in range(4))
    for shape in filter(None, workload.shapes):
        ranges = parts(shape, ranks)
        blocks = Blocks(ranges[0].n)
        cells = [*cut(0, blocks, ranges)]
        for rank, r in enumerate(ranges):
            sums[rank] += len([*r.nodes()]) + sum(cell.owner == rank for cell in cells)
            summed[rank] += sum(end - begin for begin, end in r.ends())
            nodes[rank] += len(aligned(blocks.next(r.begin), blocks.next(r.end), blocks.alone))
        for cell in cells:
            for rank, begin, end in cell.pieces[1:]:  # those of its owner stay where they are
                lent[rank] += end - begin
    most, standing = int(nodes.max()), 8 * ranks
    rows = [
        ("clip_norm", 8 * int(summed.max()), 8 * (1 + len(FIELDS) * int(sums.max()))),
        ("Lamb", standing + LAMB_ARRAYS * 4 * int(lent.max()), 8 * LAMB_SUMS * most),
        ("monitor of AdamW", standing + LAMB_ARRAYS * 4 * int(lent.max()), 8 * len(SUMS.names or ()) * most),
    ]
    head = f"{ranks} ranks: of blocks, each has up to {most} nodes"
    return "\n".join(
        [head, *(f"    for {what:17} hands over {over:9} bytes, tells all {tells:9}" for what, over, tells in rows)]
    )


def contestants(make: Callable[[], list[Any]]) -> dict[str, Callable[[], object]]:
    """Their steps, each on parameters of its own."""
    import torch

    lists = [make() for _ in range(4)]
    ours, theirs = (fu.torch.AdamW(lists[0], **HYPERS), torch.optim.AdamW(lists[1], **HYPERS, fused=True))
    clipped, theirs_clipped = (
        fu.torch.AdamW(lists[2], **HYPERS, clip_norm=MAX_NORM),
        torch.optim.AdamW(lists[3], **HYPERS, fused=True),
    )

    def clip_and_step() -> None:
        torch.nn.utils.clip_grad_norm_(lists[3], MAX_NORM)
        theirs_clipped.step()

    return {
        "fastupdate": ours.step,
        "torch fused": theirs.step,
        "fastupdate, clip_norm": clipped.step,
        "torch fused, clip_grad_norm_": clip_and_step,
    }


def run(rank: int, ranks: int, directory: str, name: str, rounds: int) -> None:
    """Takes turns, and prints what the first rank measured."""
    import torch
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.set_num_threads(1)
    fu.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{directory}/ranks", rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))

    def make() -> list[Any]:
        generator, found = torch.Generator().manual_seed(0), []
        for shape in filter(None, WORKLOADS[name].shapes):
            p, g = (torch.randn(shape, generator=generator) for _ in range(2))
            found.append(torch.nn.Parameter(distribute_tensor(p, mesh, [Shard(0)], src_data_rank=None)))
            found[-1].grad = distribute_tensor(g, mesh, [Shard(0)], src_data_rank=None)
        return found

    steps = contestants(make)
    times: dict[str, list[float]] = {contestant: [] for contestant in steps}
    for k in range(rounds + 2):
        for contestant, step in steps.items():
            distributed.barrier()
            begin = time.perf_counter()
            step()
            if k >= 2:
                times[contestant].append(time.perf_counter() - begin)
    if rank == 0:
        print(told(WORKLOADS[name], ranks))
        for contestant, seconds in times.items():
            print(f"    {contestant:32}{median(seconds) * 1e3:10.3f} ms")
    distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--workload", choices=WORKLOADS, default="resnet50")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    from torch import multiprocessing

    for ranks in arguments.ranks:
        with tempfile.TemporaryDirectory() as directory:
            multiprocessing.spawn(  # type: ignore[no-untyped-call]
                run, (ranks, str(Path(directory)), arguments.workload, arguments.rounds), nprocs=ranks
            )
    for fact, value in machine.facts(1).items():
        print(f"{fact}: {value}")
    for ranks in MORE_RANKS:
        print(told(WORKLOADS[arguments.workload], ranks))


if __name__ == "__main__":
    main()
