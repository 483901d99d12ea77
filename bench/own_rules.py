"""A rule of one's own beside the built-in of the same text.

AdamW and AdamW under @fu.rule take turns in one process, as in bench.peers; that their bytes are the same is checked.
"""

from __future__ import annotations

import argparse

import numpy as np

import fastupdate as fu
from bench import machine
from bench.contestants import Fastupdate
from bench.measuring import Protocol, take_turns
from bench.tables import duration
from bench.workloads import WORKLOADS, Workload
from fastupdate.engines import choose
from fastupdate.rules.adamw import AdamW

TEN_MILLION = Workload("ten-million", "one tensor of 10 000 000", ((10**7,),))


@fu.rule
class OwnAdamW(AdamW):
    """The text of the built-in."""


class Own(Fastupdate):
    name = "@fu.rule"
    optimizer_class = OwnAdamW


def row(workload: Workload, protocol: Protocol) -> str:
    """One line of the table; raises if the two leave different bytes."""
    ours, own = Fastupdate(workload, protocol.threads), Own(workload, protocol.threads)
    pair = take_turns(ours, own, protocol)
    same = all(
        np.array_equal(a.view(np.uint32), b.view(np.uint32)) for a, b in zip(ours.params, own.params, strict=True)
    )
    if not same:
        raise SystemExit(f"{workload.title}: the bytes differ")
    ratio = pair.ratio
    times = " | ".join(duration(float(np.median(x))) for x in (pair.reference, pair.peer))
    return f"| {workload.title} | {times} | {ratio.value:.2f} | {ratio.low:.2f}–{ratio.high:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.own_rules", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds of small tensors: to see that it works")
    quick = parser.parse_args().quick
    machine.require_compiled(choose.native_problem())
    protocol = Protocol(threads=1, quick=quick)
    print("| float32, one thread | built-in | `@fu.rule` | ratio | 95 % interval |\n|---|---|---|---|---|")
    for workload in (WORKLOADS["one64"], TEN_MILLION)[: 1 if quick else 2]:
        print(row(workload, protocol), flush=True)


if __name__ == "__main__":
    main()
