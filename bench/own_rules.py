"""Rules of one's own beside the built-ins of the same text.

AdamW and LAMB, whose step depends on two sums over each tensor, and the same under @fu.rule take turns in one process,
as in bench.peers; that their bytes are the same is checked.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import fastupdate as fu
from bench import machine
from bench.contestants import Contestant, Fastupdate
from bench.measuring import Protocol, take_turns
from bench.tables import Row, duration, write_json
from bench.workloads import WORKLOADS, Workload
from fastupdate.engines import choose
from fastupdate.rules.adamw import AdamW
from fastupdate.rules.lamb import Lamb


@fu.rule
class OwnAdamW(AdamW):
    """The text of the built-in."""


@fu.rule
class OwnLamb(Lamb):
    """The text of the built-in."""


class BuiltInLamb(Fastupdate):
    optimizer_class = fu.Lamb


class Own(Fastupdate):
    name = "@fu.rule"
    optimizer_class = OwnAdamW


class OwnWithSums(Own):
    optimizer_class = OwnLamb


CONTESTANTS: dict[str, tuple[type[Contestant], type[Contestant]]] = {
    "AdamW": (Fastupdate, Own),
    "LAMB": (BuiltInLamb, OwnWithSums),
}
WORKS = [(recipe, workload) for recipe in CONTESTANTS for workload in ("one64", "ten-million")]


def measured(recipe: str, workload: Workload, protocol: Protocol) -> Row:
    """One line of the table; raises if the two leave different bytes."""
    built_in, own = (made(workload, protocol.threads) for made in CONTESTANTS[recipe])
    pair = take_turns(built_in, own, protocol)
    left = zip(built_in.params, own.params, strict=True)
    if not all(np.array_equal(a.view(np.uint32), b.view(np.uint32)) for a, b in left):
        raise SystemExit(f"{recipe}, {workload.title}: the bytes differ")
    return Row.of(recipe, workload, own, pair, 0.0)


def cells(row: Row) -> tuple[str, ...]:
    """Those of the table."""
    times = duration(row.reference_seconds), duration(row.seconds)
    return row.recipe, WORKLOADS[row.workload].title, *times, f"{row.ratio:.2f}", f"{row.low:.2f}–{row.high:.2f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bench.own_rules", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds of small tensors: to see that it works")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to write what was measured")
    args = parser.parse_args(arguments)
    machine.require_compiled(choose.native_problem())
    protocol, rows = Protocol(threads=1, quick=args.quick), []
    print("| float32, one thread | work | built-in | `@fu.rule` | ratio | 95 % interval |\n|---|---|---|---|---|---|")
    for recipe, name in WORKS:
        if name == "one64" or not args.quick:
            rows.append(measured(recipe, WORKLOADS[name], protocol))
            print(f"| {' | '.join(cells(rows[-1]))} |", flush=True)
    if args.json:
        write_json(args.json, "own_rules", machine.facts(1), rows, [])


if __name__ == "__main__":
    main()
