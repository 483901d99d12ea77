"""fastupdate beside other libraries, in one process, taking turns: time, ratio and share of a shape-matched stream.

The contestants run AdamW in float32 over arrays of their own with the same values. Each is paired with fastupdate:
the two take turns (A B A B …) for 30 rounds, or 15 where the working set is above 64 MB or a round takes 0.2 s. The
ratio is that of the medians, with a 95 % bootstrap interval; above 1, fastupdate was faster. Before each timed run
torch multiplies two matrices, untimed, as training would have. After the last round their results are compared.

The stream is a C loop (bench/stream.c, compiled for this machine) over four arrays of the same shapes: it reads
parameter, gradient and two states and writes parameter and states, in one parallel region, the same blocks on the same
threads. Its arithmetic is three additions and a multiplication or, in a second variant, a division, for on some
processors a loop that takes longer over its arithmetic streams faster. fastupdate's "share of the stream" is the
smaller of the two ratios, each to fastupdate's time in the same pair; another contestant's is that over its own ratio.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fastupdate as fu
from bench import machine, options, pipelines
from bench.contestants import PEERS, Contestant, Fastupdate
from bench.measuring import Protocol, difference, take_turns
from bench.picture import draw
from bench.tables import Absent, Row, losses, table, write_json
from bench.workloads import WORKLOADS, Workload
from fastupdate import rules
from fastupdate.engines import choose

DEFAULTS = {
    "peers": "one64,10kx64,10kx64-fresh,resnet50,gpt2,huge",
    "pipeline": "gpt2,resnet50,10kx64",
    "options": "resnet50",
}
Measured = Row | Absent


def compare(
    recipe: str,
    reference: type[Contestant],
    peer: type[Contestant],
    workload: Workload,
    protocol: Protocol,
    predicted: float | None = None,
) -> Measured:
    """One row; both contestants are made for it and freed after it."""
    reason = peer.problem(workload)
    if reason:
        return Absent(recipe, workload.name, peer.name, reason)
    try:
        b = peer(workload, protocol.threads)
    except (ImportError, RuntimeError, OSError) as error:  # installed, but unusable here
        return Absent(recipe, workload.name, peer.name, f"{type(error).__name__}: {error}")
    a = reference(workload, protocol.threads)
    pair = take_turns(a, b, protocol)
    apart = difference(a, b) if peer.comparable else None
    return Row.of(recipe, workload, peer, pair, apart, predicted=predicted)


def measure(mode: str, workloads: list[Workload], protocol: Protocol) -> Iterator[Measured]:
    """All rows of a mode."""
    for workload in workloads:
        if mode == "peers":
            for peer in PEERS:
                yield compare("AdamW", Fastupdate, peer, workload, protocol)
        elif mode == "options":
            plain = options.with_option(options.OPTIONS[0])
            for option in options.OPTIONS:
                contestant = options.with_option(option)
                yield compare("AdamW + option", plain, contestant, workload, protocol, option.predicted)
        else:
            for recipe, ours, others in pipelines.RECIPES:
                for peer in others:
                    yield compare(recipe, ours, peer, workload, protocol)


def common_options(p: argparse.ArgumentParser) -> None:
    """What every benchmark beside peers is asked."""
    p.add_argument("--threads", type=int, default=fu.get_num_threads(), help="for everyone (default: %(default)s)")
    p.add_argument("--quick", action="store_true", help="three rounds: to see that it works")
    p.add_argument("--no-matmul", action="store_true", help="no matrix product before the timed runs")
    p.add_argument("--json", type=Path, metavar="PATH", help="where to write what was measured")
    p.add_argument("--plot", type=Path, metavar="PATH", help="where to draw it (.png, .svg, .pdf)")


def prepare(args: argparse.Namespace) -> float:
    """Makes the folders that are written to, before anything is measured; the time now."""
    for path in filter(None, (args.json, args.plot)):
        path.parent.mkdir(parents=True, exist_ok=True)
    return time.monotonic()


def publish(args: argparse.Namespace, mode: str, rows: list[Row], absent: list[Absent], begin: float) -> int:
    """Prints, writes and draws; the status of the benchmark."""
    about = machine.facts(args.threads)
    print("\n".join(f"{key:<18}{value}" for key, value in about.items()))
    print(table(rows, absent))
    print(f"\n{losses(rows)}\n\nThat took {time.monotonic() - begin:.0f} s.")
    if args.json:
        write_json(args.json, mode, about, rows, absent)
    if args.plot and rows:
        draw(mode, rows, args.plot)
    return 0 if rows and all(row.agrees for row in rows) else 1


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser("python -m bench.peers", description=__doc__, formatter_class=_Formatter)
    what = p.add_mutually_exclusive_group()
    what.add_argument("--pipeline", action="store_true", help="whole update pipelines beside torch's fastest pieces")
    what.add_argument(
        "--rules", nargs="?", const=",".join(rules.names()), metavar="A,B", help="every rule, or these (bench/rules.py)"
    )
    what.add_argument("--options", action="store_true", help="each option beside a plain step and its bytes")
    known = ", ".join(WORKLOADS)
    p.add_argument("--workloads", metavar="A,B", help=f"of {known} (default: all that the mode is meant for)")
    common_options(p)
    return p


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the paragraphs of the description."""


def chosen_workloads(names: str) -> list[Workload]:
    unknown = [name for name in names.split(",") if name not in WORKLOADS]
    if unknown:
        raise SystemExit(f"--workloads: no {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    return [WORKLOADS[name] for name in names.split(",")]


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints, draws. The status is 1 if some contestant computed something else, or none could take part."""
    args = parser().parse_args(arguments)
    machine.require_compiled(choose.native_problem())
    if args.rules:
        from bench.rules import main as measure_rules  # which asks tests/golden for peers

        return measure_rules(args.rules.split(","), Protocol(args.threads, args.quick, not args.no_matmul), args.json)
    mode = "pipeline" if args.pipeline else "options" if args.options else "peers"
    protocol = Protocol(
        args.threads, args.quick, not args.no_matmul, {"pipeline": 1, "options": options.STEPS}.get(mode)
    )
    workloads = chosen_workloads(args.workloads or DEFAULTS[mode])
    begin = prepare(args)
    rows: list[Row] = []
    absent: list[Absent] = []
    for measured in measure(mode, workloads, protocol):
        if isinstance(measured, Row):
            rows.append(measured)
        else:
            absent.append(measured)
        outcome = f"{measured.ratio:.3g}" if isinstance(measured, Row) else "did not take part"
        print(
            f"{time.monotonic() - begin:4.0f} s  {measured.workload}: {measured.contestant}: {outcome}", file=sys.stderr
        )
    return publish(args, mode, rows, absent, begin)


if __name__ == "__main__":
    sys.exit(main())
