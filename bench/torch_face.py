"""fastupdate.torch beside torch.optim: steps of a training loop with `zero_grad(set_to_none=True)` and backward.

Contestants take turns as in bench.peers, one step in each timed run. Each step's gradients are new tensors, which a
backward pass of autograd's makes, untimed; then torch multiplies two matrices, as the rest of a backward pass would.
After the last round parameters and momentum are compared.

AdamW              beside torch's fused, foreach and compiled steps (compiling is left out where it takes minutes)
clip, 50 groups    the norm of all gradients clipped, 50 groups under a LambdaLR: by options here, by torch's
                   clip_grad_norm_(foreach=True) and fused step there; the scheduler is torch's in both
average            a moving average of the weights: ema_decay here, AveragedModel's multi_avg_fn and fused step there
SGD                with momentum, beside torch's fused SGD
RMSprop, NAdam, RAdam, Adamax
                   which torch has not fused: its fastest is foreach

What was expected before anything was measured stands in WORKS, as `goal`: from the bytes that large tensors move (a
step 28 per parameter, a norm 4, a clipped gradient 8, an average 12), and from the calls that small ones cost.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import fastupdate as fu
from bench import machine
from bench.contestants import HYPERS, Contestant
from bench.measuring import Protocol
from bench.peers import common_options, compare, prepare, publish
from bench.tables import Absent, Row
from bench.workloads import WORKLOADS, Array, Workload
from fastupdate.engines.choose import native_problem

GROUPS, MAX_NORM, EMA_DECAY = 50, 1.0, 0.99
SGD = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.01}
RMSPROP = {"lr": 1e-4, "weight_decay": 0.01}


class Trained(Contestant):
    """A module of parameters, trained by an optimizer of torch's kind."""

    modules = ("torch",)
    momentum: ClassVar[str] = "exp_avg"

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        import torch

        torch.set_num_threads(threads)
        fu.set_num_threads(threads)
        self.torch = torch
        self.params = [torch.nn.Parameter(self.laid(p)) for p in self.params]
        self.grads = [self.laid(g) for g in self.grads]
        self.optimizer: Any = self.make_optimizer()
        self.step = self.optimizer.step

    def laid(self, array: Array) -> Any:
        tensor = self.torch.from_numpy(array).clone()
        last = self.workload.channels_last and tensor.dim() == 4
        return tensor.to(memory_format=self.torch.channels_last) if last else tensor

    def make_optimizer(self) -> Any:
        raise NotImplementedError

    def before(self, steps: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.torch.autograd.backward(self.params, self.grads)

    def outcome(self) -> dict[str, list[Array]]:
        moved = self.moved([p.detach().numpy() for p in self.params])
        states = [self.optimizer.state[p][self.momentum].numpy() for p in self.params]
        return {"parameters": moved, "momentum": states}


class Ours(Trained):
    name = "fastupdate"
    options: ClassVar[dict[str, Any]] = {}

    def make_optimizer(self) -> Any:
        return fu.torch.AdamW(self.params, **HYPERS, **self.options)


class Theirs(Trained):
    options: ClassVar[dict[str, Any]] = {}

    def make_optimizer(self) -> Any:
        return self.torch.optim.AdamW(self.params, **HYPERS, **self.options)


class Fused(Theirs):
    name = "torch fused"
    options: ClassVar = {"fused": True}


class Foreach(Theirs):
    name = "torch foreach"
    options: ClassVar = {"foreach": True}


class Compiled(Theirs):
    name = "torch compiled"
    most_tensors = 200

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        self.step = self.torch.compile(self.optimizer.step)
        start = [p.detach().clone() for p in self.params]
        self.before(1)
        self.step()  # which compiles
        with self.torch.no_grad():
            for p, value in zip(self.params, start, strict=True):
                p.copy_(value)
                for state in self.optimizer.state[p].values():
                    state.zero_()

    @classmethod
    def problem(cls, workload: Workload) -> str | None:
        if len(workload.shapes) > cls.most_tensors:
            return f"compiling a step over more than {cls.most_tensors} tensors takes minutes"
        return super().problem(workload)


# -- whole updates ----------------------------------------------------------------------------------------------------


def groups_of(params: list[Any]) -> list[dict[str, Any]]:
    """As many groups as there are layers, each with its own decay."""
    return [{"params": params[k::GROUPS], "weight_decay": 0.01 * (1 + k / GROUPS)} for k in range(GROUPS)]


class Scheduled:
    """A step and its scheduler's."""

    def schedule(self, contestant: Any, take: Callable[[], object]) -> Callable[[], None]:
        scheduler = contestant.torch.optim.lr_scheduler.LambdaLR(
            contestant.optimizer, lambda step: 1 / (1 + step / 1e4)
        )

        def step() -> None:
            take()
            scheduler.step()

        return step


class OursClipped(Scheduled, Ours):
    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        self.step = self.schedule(self, self.optimizer.step)

    def make_optimizer(self) -> Any:
        return fu.torch.AdamW(groups_of(self.params), **HYPERS, clip_norm=MAX_NORM)


class FusedClipped(Scheduled, Trained):
    name = "clip_grad_norm_, torch fused"
    tolerance = 0.03  # torch sums squares in float32: norms of large tensors come out too small

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        clip, take = self.torch.nn.utils.clip_grad_norm_, self.optimizer.step
        self.step = self.schedule(self, lambda: (clip(self.params, MAX_NORM, foreach=True), take()))

    def make_optimizer(self) -> Any:
        return self.torch.optim.AdamW(groups_of(self.params), **HYPERS, fused=True)


class OursAveraged(Ours):
    options: ClassVar = {"ema_decay": EMA_DECAY}

    def outcome(self) -> dict[str, list[Array]]:
        return {**super().outcome(), "average": [self.optimizer.state[p]["ema"].numpy() for p in self.params]}


class FusedAveraged(Fused):
    name = "torch fused, AveragedModel"

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        swa = self.torch.optim.swa_utils
        model = self.torch.nn.ParameterList(self.params)
        self.average = swa.AveragedModel(model, multi_avg_fn=swa.get_ema_multi_avg_fn(EMA_DECAY))
        self.average.update_parameters(model)  # the first one copies
        take = self.optimizer.step
        self.step = lambda: (take(), self.average.update_parameters(model))

    def outcome(self) -> dict[str, list[Array]]:
        return {**super().outcome(), "average": [p.detach().numpy() for p in self.average.parameters()]}


# -- other rules ------------------------------------------------------------------------------------------------------


class OursSGD(Trained):
    name = "fastupdate"
    momentum = "momentum_buffer"

    def make_optimizer(self) -> Any:
        return fu.torch.SGD(self.params, **SGD)


class FusedSGD(OursSGD):
    name = "torch fused SGD"

    def make_optimizer(self) -> Any:
        return self.torch.optim.SGD(self.params, **SGD, fused=True)


def unfused(rule: str, state: str, **hypers: Any) -> tuple[type[Contestant], type[Contestant]]:
    """A rule of which torch has no fused form, here and as torch has it for all tensors at once; state: to compare."""

    class Here(Trained):
        name = "fastupdate"
        momentum = state

        def make_optimizer(self) -> Any:
            return getattr(fu.torch, rule)(self.params, **hypers)

    class There(Here):
        name = f"torch foreach {rule}"

        def make_optimizer(self) -> Any:
            return getattr(self.torch.optim, rule)(self.params, **hypers, foreach=True)

    return Here, There


UNFUSED = {
    "RMSprop": unfused("RMSprop", "square_avg", **RMSPROP),
    "NAdam": unfused("NAdam", "exp_avg", lr=1e-3),
    "RAdam": unfused("RAdam", "exp_avg", lr=1e-3),
    "Adamax": unfused("Adamax", "exp_avg", lr=1e-3),
}


class Work(NamedTuple):
    """What is compared, and how many times as long torch was expected to take at the least."""

    recipe: str
    workload: str
    ours: type[Contestant]
    theirs: type[Contestant]
    goal: float


WORKS = (
    Work("AdamW", "161x64", Ours, Fused, 15),
    Work("AdamW", "161x64", Ours, Foreach, 15),
    Work("AdamW", "161x64", Ours, Compiled, 1),
    Work("AdamW", "10kx64", Ours, Fused, 12),
    Work("AdamW", "10kx64", Ours, Foreach, 12),
    Work("AdamW", "10kx64", Ours, Compiled, 1),
    Work("AdamW", "resnet50", Ours, Fused, 1.15),
    Work("AdamW", "resnet50", Ours, Foreach, 3),
    Work("AdamW", "resnet50", Ours, Compiled, 1),
    Work("clip, 50 groups", "resnet50", OursClipped, FusedClipped, 1.4),
    Work("average", "resnet50", OursAveraged, FusedAveraged, 1.8),
    Work("SGD", "resnet50", OursSGD, FusedSGD, 1.15),
    *(Work(rule, "resnet50", *pair, 3) for rule, pair in UNFUSED.items()),
    Work("AdamW", "resnet50-last", Ours, Fused, 1.15),
    Work("AdamW", "resnet50-last", Ours, Foreach, 3),
    Work("AdamW", "gpt2", Ours, Fused, 1.03),
    Work("AdamW", "gpt2", Ours, Foreach, 3),
    Work("clip, 50 groups", "gpt2", OursClipped, FusedClipped, 1.4),
    Work("average", "gpt2", OursAveraged, FusedAveraged, 1.8),
    Work("AdamW", "1kx64", Ours, Fused, 12),
    Work("clip, 50 groups", "1kx64", OursClipped, FusedClipped, 20),
    Work("average", "1kx64", OursAveraged, FusedAveraged, 12),
    *(Work(rule, "1kx64", *pair, 30) for rule, pair in UNFUSED.items()),
)


def parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser("python -m bench.torch_face", description=__doc__, formatter_class=form)
    common_options(p)
    p.add_argument("--workloads", metavar="A,B", help="these alone (default: all)")
    return p


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints, draws. The status is 1 if some contestant computed something else, or nobody took part."""
    args = parser().parse_args(arguments)
    machine.require_compiled(native_problem())
    begin = prepare(args)
    chosen = args.workloads.split(",") if args.workloads else list(dict.fromkeys(work.workload for work in WORKS))
    protocol = Protocol(args.threads, args.quick, not args.no_matmul, 1)
    rows: list[Row] = []
    absent: list[Absent] = []
    for work in (work for work in WORKS if work.workload in chosen):
        measured = compare(work.recipe, work.ours, work.theirs, WORKLOADS[work.workload], protocol)
        if isinstance(measured, Row):
            measured = Row(**{**vars(measured), "note": f"expected {work.goal:g}× {measured.note}".rstrip()})
        (rows if isinstance(measured, Row) else absent).append(measured)  # type: ignore[arg-type]
        print(f"{time.monotonic() - begin:4.0f} s  {work.recipe}, {work.workload}: {work.theirs.name}", file=sys.stderr)
    return publish(args, "torch_face", rows, absent, begin)


if __name__ == "__main__":
    sys.exit(main())
