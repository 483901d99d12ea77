"""What a call costs where tensors are small: every way of calling fastupdate, beside torch and NumPy.

All run AdamW in float32 on arrays of 64 elements, so that what is measured is the way to the kernel and back. The
contestants take turns as in bench.peers, and their results are compared where both compute the same.

functional      fu.functional.adamw on arrays, or on lists of them
bound           an optimizer whose gradients stay where they are; its learning rate is left alone, set before each step,
                or scheduled
nested          parameters and gradients in a dict of dicts, new gradient arrays in each step
465 groups      one group for each tensor, one schedule for all
torch           torch parameters whose gradients are new tensors in each step
construction    making the optimizer
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

import fastupdate as fu
from bench import machine
from bench.contestants import BETA1, BETA2, DECAY, EPS, HYPERS, LR, Contestant, Fastupdate, NumPy, Torch, TorchFused
from bench.measuring import Protocol
from bench.peers import common_options, compare, prepare, publish
from bench.tables import Absent, Row
from bench.workloads import WORKLOADS, Workload
from fastupdate import schedules
from fastupdate.engines.choose import native_problem

STEPS = 100_000  # of the schedule, more than are taken
SCHEDULE = schedules.warmup(schedules.cosine(LR, STEPS), 100)
SHARES = [value / LR for value in SCHEDULE(np.arange(STEPS)).tolist()]


def share(step: int) -> float:
    """The schedule's values, as shares of the largest, by a plain function."""
    return SHARES[min(step, STEPS - 1)]


# -- fastupdate -------------------------------------------------------------------------------------------------------


class Functional(Contestant):
    name = "fastupdate"

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        fu.set_num_threads(threads)
        rows = [self.params, self.grads, *([np.zeros_like(p) for p in self.params] for _ in range(2))]
        p, g, m, v = [row[0] for row in rows] if len(self.params) == 1 else rows
        adamw, steps, betas = fu.functional.adamw, itertools.count(1), HYPERS["betas"]

        def step() -> None:
            adamw(p, g, m, v, step=next(steps), lr=LR, betas=betas, eps=EPS, weight_decay=DECAY)

        self.step = step


class SetLr(Fastupdate):
    """The learning rate is set before each step."""

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        group, step = self.optimizer.groups[0], self.optimizer.step

        def set_and_step() -> None:
            group["lr"] = LR
            step()

        self.step = set_and_step


class Scheduled(Fastupdate):
    schedule: ClassVar[Any] = SCHEDULE

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        self.optimizer.groups[0]["lr"] = type(self).schedule


class ScheduledInPython(Scheduled):
    schedule: ClassVar[Any] = staticmethod(lambda step: LR * share(step))


class Grouped(Fastupdate):
    """A group for each tensor, and one schedule for all."""

    def __init__(self, workload: Workload, threads: int) -> None:
        Contestant.__init__(self, workload, threads)
        fu.set_num_threads(threads)
        names = range(len(self.params))
        groups = [{"params": str(k), "weight_decay": DECAY * (1 + k / len(names))} for k in names]
        self.optimizer = fu.AdamW(self.params, **{**HYPERS, "lr": SCHEDULE}, groups=groups)
        self.optimizer.bind(self.grads)
        self.step = self.optimizer.step


class Nested(Fastupdate):
    """A dict of dicts, of eight tensors each."""

    def __init__(self, workload: Workload, threads: int) -> None:
        Contestant.__init__(self, workload, threads)
        fu.set_num_threads(threads)
        self.optimizer = fu.AdamW(self.nested(self.params), **HYPERS)
        self.step = lambda: self.optimizer.step(self.next_gradients())

    def nested(self, arrays: list[Any]) -> Any:
        layers = range(0, len(arrays), 8)
        return {f"layer{i}": {f"w{k}": a for k, a in enumerate(arrays[i : i + 8])} for i in layers}

    def before(self, steps: int) -> None:
        super().before(steps)
        self.sets = [self.nested(grads) for grads in self.sets]


class OnTorch(Torch):
    """torch's parameters, and the gradients that they hold."""

    name = "fastupdate"

    def make_optimizer(self) -> Any:
        fu.set_num_threads(self.threads)
        return fu.AdamW(self.params, **HYPERS)


class Construction(Contestant):
    name = "fastupdate"

    def step(self) -> None:
        fu.AdamW(self.params, **HYPERS)


# -- torch ------------------------------------------------------------------------------------------------------------


class TorchFunctional(Torch):
    name = "torch._fused_adamw_"

    def make_optimizer(self) -> Any:
        import torch

        tensors = [p.detach() for p in self.params]
        m, v = ([torch.zeros_like(p) for p in tensors] for _ in range(2))
        steps = [torch.zeros(()) for _ in tensors]
        numbers = {"lr": LR, "beta1": BETA1, "beta2": BETA2, "weight_decay": DECAY, "eps": EPS}

        class Call:
            def step(self_) -> None:  # noqa: N805
                torch._foreach_add_(steps, 1)
                torch._fused_adamw_(tensors, self.grads, m, v, [], steps, amsgrad=False, maximize=False, **numbers)

        return Call()


class TorchSetLr(TorchFused):
    def make_optimizer(self) -> Any:
        optimizer = super().make_optimizer()
        group, step = optimizer.param_groups[0], optimizer.step

        class Call:
            def step(self) -> None:
                group["lr"] = LR
                step()

        return Call()


class TorchScheduled(TorchFused):
    name = "torch fused, LambdaLR"

    def make_optimizer(self) -> Any:
        import torch

        optimizer = self.make_groups()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)

        class Call:
            def step(self) -> None:
                optimizer.step()
                schedule.step()

        return Call()

    def make_groups(self) -> Any:
        return super().make_optimizer()


class TorchGrouped(TorchScheduled):
    def make_groups(self) -> Any:
        import torch

        count = len(self.params)
        groups = [{"params": [p], "weight_decay": DECAY * (1 + k / count)} for k, p in enumerate(self.params)]
        return torch.optim.AdamW(groups, **HYPERS, fused=True)


class TorchConstruction(TorchFused):
    name = "torch fused"

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        self.step: Callable[[], Any] = self.make_optimizer


# -- the table --------------------------------------------------------------------------------------------------------


class Work(NamedTuple):
    """A way of calling, over a workload; `steps` in one timed run, or as many as last 2 ms."""

    recipe: str
    workload: str
    ours: type[Contestant]
    others: tuple[type[Contestant], ...]
    steps: int | None = None


WORKS = (
    Work("functional call", "one64", Functional, (TorchFunctional, NumPy)),
    Work("functional call", "161x64", Functional, (TorchFunctional, NumPy)),
    Work("bound step", "one64", Fastupdate, (TorchFused, NumPy)),
    Work("lr set, bound step", "one64", SetLr, (TorchSetLr,)),
    Work("bound step, warmup(cosine)", "one64", Scheduled, (TorchScheduled,)),
    Work("bound step, lr a Python function", "one64", ScheduledInPython, (TorchScheduled,)),
    Work("nested dict", "161x64-fresh", Nested, (TorchFused, NumPy)),
    Work("465 groups, one schedule", "465x64", Grouped, (TorchGrouped,)),
    Work("torch parameters", "161x64-fresh", OnTorch, (TorchFused,), 1),
    Work("torch parameters", "10kx64-fresh", OnTorch, (TorchFused,), 1),
    Work("construction", "161x64", Construction, (TorchConstruction,)),
    Work("construction", "10kx64", Construction, (TorchConstruction,), 1),
)


def parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser("python -m bench.calls", description=__doc__, formatter_class=form)
    common_options(p)
    return p


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints, draws. The status is 1 if some contestant computed something else, or nobody took part."""
    args = parser().parse_args(arguments)
    machine.require_compiled(native_problem())
    begin = prepare(args)
    rows: list[Row] = []
    absent: list[Absent] = []
    for work in WORKS:
        protocol = Protocol(args.threads, args.quick, not args.no_matmul, work.steps)
        for other in work.others:
            measured = compare(work.recipe, work.ours, other, WORKLOADS[work.workload], protocol)
            (rows if isinstance(measured, Row) else absent).append(measured)  # type: ignore[arg-type]
            print(f"{time.monotonic() - begin:4.0f} s  {work.recipe}, {work.workload}: {other.name}", file=sys.stderr)
    return publish(args, "calls", rows, absent, begin)


if __name__ == "__main__":
    sys.exit(main())
