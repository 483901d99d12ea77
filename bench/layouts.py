"""What memory layouts cost: a step over arrays that lie in other orders, beside the same step over C-ordered ones.

Both run AdamW in float32 with the same options and values, and take turns as in bench.peers. The ratio is the time over
that of C order; the results are compared.

F, F            parameter and gradient in Fortran order
C, F            a C-ordered parameter whose gradient is in Fortran order
last, last      both with the second axis fastest, as torch's channels_last
columns         each parameter and gradient is a column of one matrix
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

import fastupdate as fu
from bench import machine
from bench.contestants import HYPERS, Contestant, Fastupdate
from bench.measuring import Protocol
from bench.peers import common_options, compare, prepare, publish
from bench.tables import Absent, Row
from bench.workloads import WORKLOADS, Array, Workload
from fastupdate.engines.choose import native_problem


def columns(arrays: list[Array]) -> list[Array]:
    """Copies that are the columns of one matrix."""
    matrix = np.stack(arrays, axis=1)
    return [matrix[:, k] for k in range(len(arrays))]


def fortran(arrays: list[Array]) -> list[Array]:
    return [np.asfortranarray(a) for a in arrays]


def last(arrays: list[Array]) -> list[Array]:
    return [np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) for a in arrays]


def unchanged(arrays: list[Array]) -> list[Array]:
    return arrays


LAYOUTS = {"C": unchanged, "F": fortran, "last": last, "columns": columns}


def laid_out(parameter: str, gradient: str, options: dict[str, Any]) -> type[Fastupdate]:
    """fastupdate's AdamW over arrays that lie so."""

    class Laid(Fastupdate):
        name = f"{parameter}, {gradient}"

        def __init__(self, workload: Workload, threads: int) -> None:
            Contestant.__init__(self, workload, threads)
            fu.set_num_threads(threads)
            self.params, self.grads = LAYOUTS[parameter](self.params), LAYOUTS[gradient](self.grads)
            self.optimizer = fu.AdamW(self.params, **HYPERS, **options)
            self.optimizer.bind(self.grads)
            self.step = self.optimizer.step

    return Laid


OPTIONS: dict[str, dict[str, Any]] = {
    "clip_norm": {"clip_norm": 1.0},
    "clip_tensor_norm": {"clip_tensor_norm": 1.0},
    "clip_unit_norm": {"clip_unit_norm": 0.01},
    "monitor": {"monitor": True},
}
MATRICES = ("matrix", "powers", "layer")
WORKS: list[tuple[str, tuple[str, str], str]] = [
    *((name, pair, "plain") for name in MATRICES for pair in (("C", "F"), ("F", "C"))),
    *((name, ("columns", "columns"), "plain") for name in ("800x12500", "800x784")),
    *(("matrix", ("F", "F"), option) for option in ("plain", *OPTIONS)),
    *(("wide", ("F", "F"), option) for option in ("clip_norm", "monitor")),
    *(("images", pair, "plain") for pair in (("last", "last"), ("C", "last"), ("last", "C"))),
    *(("images", ("last", "last"), option) for option in OPTIONS),
]


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints, draws. The status is 1 if some layout gave other results."""
    p = argparse.ArgumentParser(
        "python -m bench.layouts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common_options(p)
    args = p.parse_args(arguments)
    machine.require_compiled(native_problem())
    begin = prepare(args)
    rows: list[Row] = []
    absent: list[Absent] = []
    protocol = Protocol(args.threads, args.quick, not args.no_matmul)
    for name, pair, option in WORKS:
        options = OPTIONS.get(option, {})
        measured = compare(option, laid_out("C", "C", options), laid_out(*pair, options), WORKLOADS[name], protocol)
        (rows if isinstance(measured, Row) else absent).append(measured)  # type: ignore[arg-type]
        print(f"{option}, {name}: {', '.join(pair)}", file=sys.stderr)
    return publish(args, "layouts", rows, absent, begin)


if __name__ == "__main__":
    sys.exit(main())
