"""Training steps on parameters that ranks share: fastupdate and torch's fused step under DDP and FSDP2.

Each of several processes (gloo) has the same model, whose loss is half the sum of its squared weights, so that little
but the engine's messages and the optimizer takes time. In every round each contestant takes one step, in turn; a time
is that of the first rank, after a barrier. The bytes that fastupdate sends of its own are counted; those of engines,
and of more ranks than are run, are worked out (told.py), as are steps on up to 1024 ranks, from what a message, a byte
and an element of a step cost here. A network's figures can be put in the place of the first two.

    python -m bench.ranks --ranks 1 2 3 4
    python -m bench.ranks --ranks 2 --latency 5e-6 --bandwidth 25e9
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import fastupdate as fu
from bench import machine
from bench.mpi import BIG, MODELS
from bench.told import KINDS, told
from bench.workloads import WORKLOADS, Shape

MORE_RANKS = (8, 64, 1024)  # of which all is worked out
HYPERS: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.01}
MAX_NORM = 1.0
UNIT = 128 << 20  # bytes of parameters that FSDP2 brings together at once, in a model on paper


class Costs(NamedTuple):
    """Seconds that each of these takes: a message, a byte of one, an element of AdamW's step."""

    message: float
    byte: float
    element: float


# -- measured, on each rank -------------------------------------------------------------------------------------------


def model_of(shapes: tuple[Shape, ...]) -> Any:
    """A module of such weights, whose result is half the sum of their squares."""
    import torch

    class Weights(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            weights = [torch.randn(shape, generator=generator) for shape in filter(None, shapes)]
            self.weights = torch.nn.ParameterList(map(torch.nn.Parameter, weights))

        def forward(self) -> Any:
            return sum(p.square().sum() for p in self.weights) / 2

    return Weights()


def optimizers(model: Any) -> dict[str, Callable[[], object]]:
    """Steps of the model's parameters; those that torch has are its own, too."""
    import torch

    params = list(model.parameters())
    theirs, clipped = (torch.optim.AdamW(params, **HYPERS, fused=True) for _ in range(2))

    def clip_and_step() -> None:
        torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
        clipped.step()

    return {
        "fastupdate AdamW": fu.torch.AdamW(params, **HYPERS).step,
        "torch fused AdamW": theirs.step,
        "fastupdate AdamW, clip_norm": fu.torch.AdamW(params, **HYPERS, clip_norm=MAX_NORM).step,
        "torch fused AdamW, clip_grad_norm_": clip_and_step,
        "fastupdate Lamb": fu.torch.Lamb(params, **HYPERS).step,
        "fastupdate Adafactor": fu.torch.Adafactor(params, **HYPERS).step,
        "fastupdate AdamW, monitor": fu.torch.AdamW(params, **HYPERS, monitor=True).step,
    }


def counted(step: Callable[[], object]) -> tuple[int, int]:
    """The messages of fastupdate's own in a step, and the bytes that this rank sends in them, to all or to each."""
    from torch import distributed

    found: list[int] = []
    gather, exchange = distributed.all_gather, distributed.all_to_all_single

    def gathering(told: Any, sent: Any, **more: Any) -> None:
        found.append(sent.nbytes)
        gather(told, sent, **more)

    def exchanging(got: Any, sent: Any, *sizes: Any, **more: Any) -> None:
        found.append(sent.nbytes)
        exchange(got, sent, *sizes, **more)

    distributed.all_gather, distributed.all_to_all_single = gathering, exchanging
    try:
        step()
    finally:
        distributed.all_gather, distributed.all_to_all_single = gather, exchange
    return len(found), sum(found)


def timed(steps: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each: all of it, and the part that it says. The median of rounds in which they take turns."""
    from torch import distributed

    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(rounds + 2):  # the first two are not counted
        for name, step in steps.items():
            distributed.barrier()
            begin = time.perf_counter()
            part = step()
            times[name].append((time.perf_counter() - begin, part))
    return {name: [median(each) for each in zip(*seconds[2:], strict=True)] for name, seconds in times.items()}


def training(model: Any, step: Callable[[], object]) -> float:
    """A step of training; seconds of the optimizer's."""
    model.zero_grad()
    model().backward()
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def run(rank: int, ranks: int, directory: str, name: str, rounds: int) -> None:
    """Takes turns, and writes what the first rank measured."""
    import torch
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    fu.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{directory}/ranks", rank=rank, world_size=ranks)
    mesh, shapes = init_device_mesh("cpu", (ranks,)), WORKLOADS[name].shapes
    engines = {
        "DDP": torch.nn.parallel.DistributedDataParallel(model_of(shapes)),
        "FSDP2": fully_shard(model_of(shapes), mesh=mesh),
    }
    rows: list[dict[str, Any]] = []
    for engine, model in engines.items():
        steps = optimizers(model)
        seconds = timed({each: partial(training, model, step) for each, step in steps.items()}, rounds)
        for each, step in steps.items():
            messages, sent = counted(step)
            row = {"ranks": ranks, "engine": engine, "contestant": each, "seconds": seconds[each][0]}
            rows.append({**row, "step": seconds[each][1], "messages": messages, "sent": sent})
    small, big = torch.zeros(1), torch.zeros(BIG // 4)
    gathered = {"message": small, "byte": big}
    costs = {
        each: (lambda sent=sent: distributed.all_gather([torch.empty_like(sent) for _ in range(ranks)], sent) or 0.0)
        for each, sent in gathered.items()
    }
    found = {each: seconds for each, (seconds, _) in timed(costs, rounds).items()}
    if rank == 0:
        Path(directory, "found.json").write_text(json.dumps({"rows": rows, "costs": found}))
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)  # an interpreter that ends while a thread of gloo's lets go of a tensor is ended by that thread


def shown(rows: list[dict[str, Any]]) -> str:
    """A line for each contestant."""
    lines = []
    for row in rows:
        whole, own = (f"{1e3 * row[name]:10.3f} ms" for name in ("seconds", "step"))
        sent = f"; {row['messages']} messages of its own, {row['sent']} bytes" if row["messages"] else ""
        lines.append(f"    {row['engine']:6}{row['contestant']:36}{whole}, the optimizer {own}{sent}")
    return "\n".join(lines)


# -- on paper ---------------------------------------------------------------------------------------------------------


def told_of(shapes: list[Shape], ranks: int) -> str:
    """What a rank sends at most in a step that needs more than its own part."""
    lines = [f"{ranks} ranks: a rank sends, beside the engine's messages,"]
    for kind in KINDS:
        found = told(kind, shapes, ranks)
        words = ", ".join(f"{8 * phase.words}" + " (a row or column)" * phase.by_rows for phase in kind.phases)
        sent = f"{found.messages} messages: {found.lent:11} bytes of elements, {found.told:11} of sums"
        lines.append(f"    for {kind.name:18}{sent}; bytes of a node: {words}; nodes of a range: up to {found.nodes}")
    return "\n".join(lines)


def on_paper(shapes: list[Shape], ranks: int, costs: Costs) -> str:
    """Milliseconds of a step of DDP and of FSDP2 with AdamW, and what options and rules add to the latter."""
    elements = sum(map(math.prod, shapes))
    units, share, hops = math.ceil(4 * elements / UNIT), (ranks - 1) / ranks, math.ceil(math.log2(ranks))
    ring = units * (ranks - 1) * costs.message + 4 * elements * share * costs.byte
    figures = [2 * ring + elements * costs.element, 3 * ring + elements / ranks * costs.element]
    for kind in KINDS:
        found = told(kind, shapes, ranks)
        hopped = found.messages * hops * costs.message
        figures.append(hopped + (found.lent + (ranks - 1) * found.told) * costs.byte)
    return f"{ranks:6}{4 * elements * share / 1e9:10.2f}" + "".join(f"{1e3 * each:18,.2f}" for each in figures)


ASSUMED = f"""On paper, milliseconds of a step of one rank in float32, nothing overlapping. A ring sends each rank's
share of {UNIT >> 20} MiB (ranks − 1) times: twice under DDP, for the sum and for what it came to; three times under
FSDP2, for parameters before and after and for gradients. DDP moves all elements on each rank, FSDP2 a part. What
options and rules add to AdamW's step: their messages take log2(ranks) hops; the sums of all ranks arrive at each;
elements of cut cells are sent once. What their arithmetic costs beside AdamW's is not in it. GB: what a ring sends."""


def head() -> str:
    """Names the columns."""
    columns = ["DDP, AdamW", "FSDP2, AdamW", *(f"+ {kind.name.removeprefix('AdamW, ')}" for kind in KINDS)]
    return f"{'ranks':>6}{'ring, GB':>10}" + "".join(f"{each:>18}" for each in columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--workload", choices=WORKLOADS, default="resnet50")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--latency", type=float, help="seconds of a message, instead of those measured here")
    parser.add_argument("--bandwidth", type=float, help="bytes a second of a rank, likewise")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS], help="to work out on paper")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    from torch import multiprocessing

    work = WORKLOADS[arguments.workload]
    found: dict[int, dict[str, Any]] = {}
    for ranks in arguments.ranks:
        with tempfile.TemporaryDirectory() as directory:
            multiprocessing.spawn(  # type: ignore[no-untyped-call]
                run, (ranks, directory, arguments.workload, arguments.rounds), nprocs=ranks
            )
            found[ranks] = json.loads(Path(directory, "found.json").read_text())
        print(f"{ranks} ranks, {work.title}:\n{shown(found[ranks]['rows'])}")
    about = machine.facts(1)
    for fact, value in about.items():
        print(f"{fact}: {value}")
    here = found[2 if 2 in found else max(found)]
    alone = next(row for row in found[min(found)]["rows"] if row["engine"] == "DDP")
    latency = here["costs"]["message"] if arguments.latency is None else arguments.latency
    byte = here["costs"]["byte"] / BIG if arguments.bandwidth is None else 1 / arguments.bandwidth
    costs = Costs(latency, byte, alone["step"] / work.elements)
    print(f"\n{ASSUMED}")
    print(", ".join(f"{name}: {seconds:.3g} s" for name, seconds in costs._asdict().items()))
    for model in arguments.models:
        print(f"\n{model}")
        for ranks in (*arguments.ranks, *MORE_RANKS):
            print(told_of(MODELS[model], ranks))
        print(head())
        for ranks in (*arguments.ranks, *MORE_RANKS):
            print(on_paper(MODELS[model], ranks, costs))
    if arguments.json:
        rows = [row for of_ranks in found.values() for row in of_ranks["rows"]]
        arguments.json.write_text(
            json.dumps({"machine": about, "costs": costs._asdict(), "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
