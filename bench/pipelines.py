"""A whole training step's update: loss scale, clipping, AdamW, moving average, bfloat16 copy, zeroed gradients and
per-tensor norms of gradients, weights and updates, by fastupdate and made of torch's fastest pieces."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from bench.contestants import Contestant, Fastupdate, Torch
from bench.workloads import Array, Workload

LOSS_SCALE, MAX_NORM, EMA_DECAY = 4.0, 1.0, 0.99
STATISTICS = ("grad_norm", "weight_norm", "update_norm")  # per tensor, of the unscaled and unclipped gradients
MORE_STATISTICS = ("largest_update", "zero_fraction", "stalled", "momentum_cosine")


class Refilled(Contestant):
    """Every step gets its gradients afresh, for the step before has clipped or zeroed them."""

    filled: list[Any]  # what each step starts from

    def before(self, steps: int) -> None:
        if steps != 1:
            raise ValueError("a pipeline uses its gradients up: one step in each timed run")
        for g, filled in zip(self.grads, self.filled, strict=True):
            self.refill(g, filled)

    def refill(self, grad: Any, filled: Any) -> None:
        np.copyto(grad, filled)


class FastupdateClip(Refilled, Fastupdate):
    """clip_norm + AdamW."""

    options: ClassVar = {"clip_norm": MAX_NORM}

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        self.filled = workload.gradients()

    def outcome(self) -> dict[str, list[Array]]:
        """With the momentum: how far AdamW moves depends little on what the gradients are scaled by."""
        return {**super().outcome(), "momentum": self.optimizer.state["m"]}


class FastupdatePipeline(FastupdateClip):
    options: ClassVar = {
        "clip_norm": MAX_NORM,
        "ema_decay": EMA_DECAY,
        "shadow": "bfloat16",
        "zero_grads": True,
        "monitor": True,
    }

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        self.step = self.whole_step

    def whole_step(self) -> None:
        self.report = self.optimizer.step(loss_scale=LOSS_SCALE)

    def outcome(self) -> dict[str, list[Array]]:
        tensors: Any = self.report.tensors
        statistics = {name: [tensors[name]] for name in STATISTICS + MORE_STATISTICS}
        average, shadow = self.moved(self.optimizer.ema), means(map(from_bfloat16, self.optimizer.shadow))
        return {**super().outcome(), "average": average, "shadow": shadow, **statistics}


class TorchClip(Refilled, Torch):
    """clip_grad_norm_(foreach) + AdamW(fused)."""

    name = "torch clip_grad_norm_ + fused"
    tolerance = 0.03  # torch sums squares in float32: norms of large tensors come out too small
    options: ClassVar = {"fused": True}

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        self.filled = [g.clone() for g in self.grads]
        self.step = self.clipped_step

    def refill(self, grad: Any, filled: Any) -> None:
        grad.copy_(filled)

    def clipped_step(self) -> None:
        import torch

        torch.nn.utils.clip_grad_norm_(self.params, MAX_NORM, foreach=True)
        self.optimizer.step()

    def outcome(self) -> dict[str, list[Array]]:
        momentum = [self.optimizer.state[p]["exp_avg"].numpy() for p in self.params]
        return {**super().outcome(), "momentum": momentum}


class TorchPipeline(TorchClip):
    """The standard calls, one after the other."""

    name = "torch pipeline, foreach + fused"
    note = "norms only; fastupdate's statistics are more"

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        import torch

        with torch.no_grad():
            self.values = [p.detach() for p in self.params]
            self.average = [p.clone() for p in self.values]
            self.shadow = [p.bfloat16() for p in self.values]
            self.old = [p.clone() for p in self.values]
        self.step = torch.no_grad()(self.whole_step)

    def condition(self) -> list[Any]:
        """Unscales and clips; returns the norms of the unscaled gradients."""
        import torch

        torch._foreach_mul_(self.grads, 1 / LOSS_SCALE)
        norms: list[Any] = list(torch._foreach_norm(self.grads))
        torch.nn.utils.clip_grad_norm_(self.params, MAX_NORM, foreach=True)
        return norms

    def whole_step(self) -> None:
        import torch

        grad_norms = self.condition()
        torch._foreach_copy_(self.old, self.values)
        self.optimizer.step()
        torch._foreach_lerp_(self.average, self.values, 1 - EMA_DECAY)
        torch._foreach_copy_(self.shadow, self.values)
        torch._foreach_zero_(self.grads)
        weight_norms = torch._foreach_norm(self.values)
        torch._foreach_sub_(self.old, self.values)
        self.statistics = (grad_norms, weight_norms, torch._foreach_norm(self.old))

    def outcome(self) -> dict[str, list[Array]]:
        import torch

        norms = zip(STATISTICS, self.statistics, strict=True)
        statistics = {name: [torch.stack(tuple(values)).numpy()] for name, values in norms}
        average, shadow = self.moved([a.numpy() for a in self.average]), means(s.float().numpy() for s in self.shadow)
        return {**super().outcome(), "average": average, "shadow": shadow, **statistics}


class TorchPipelineFolded(TorchPipeline):
    """As an expert would: the norms serve statistics and clipping, and one multiplication unscales and clips."""

    name = "torch pipeline, folded by hand"

    def condition(self) -> list[Any]:
        import torch

        norms = torch._foreach_norm(self.grads)
        total = float(torch.linalg.vector_norm(torch.stack(norms))) / LOSS_SCALE
        factor = min(1.0, MAX_NORM / (total + 1e-6)) / LOSS_SCALE
        torch._foreach_mul_(self.grads, factor)
        return list(torch._foreach_mul(norms, 1 / LOSS_SCALE))


class TorchPipelineWatched(TorchPipelineFolded):
    """With the rest of what fastupdate tells of each tensor; a finite norm says that every gradient was finite."""

    name = "torch pipeline, the same statistics"
    note = ""

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        import torch

        self.momentum = [torch.zeros_like(p) for p in self.values]  # of the step before the first
        self.sizes = torch.tensor([p.numel() for p in self.values])

    def whole_step(self) -> None:
        import torch

        dots = [torch.dot(g.view(-1), m.view(-1)) for g, m in zip(self.grads, self.momentum, strict=True)]
        momentum_norms = torch._foreach_norm(self.momentum)
        nonzeros = [torch.count_nonzero(g) for g in self.grads]
        super().whole_step()
        largest = torch._foreach_norm(self.old, math.inf)
        moved = [torch.count_nonzero(d) for d in self.old]
        lengths = torch.stack(self.statistics[0]) * LOSS_SCALE * torch.stack(momentum_norms)
        self.watched = (
            torch.stack(largest),
            1 - torch.stack(nonzeros) / self.sizes,
            self.sizes - torch.stack(moved),
            torch.stack(dots) / lengths,
        )
        self.momentum = [self.optimizer.state[p]["exp_avg"] for p in self.params]

    def outcome(self) -> dict[str, list[Array]]:
        watched = zip(MORE_STATISTICS, self.watched, strict=True)
        return {**super().outcome(), **{name: [values.numpy()] for name, values in watched}}


def from_bfloat16(bits: Any) -> Array:
    """The float32 values of bfloat16 bits."""
    wide: Array = (bits.astype(np.uint32) << 16).view(np.float32)
    return wide


def means(arrays: Iterable[Array]) -> list[Array]:
    """The mean magnitudes: what is compared of low-precision copies, whose elements may be rounded the other way."""
    return [np.array([np.abs(a).mean(dtype=np.float64) for a in arrays])]


# Per recipe: what it is called, fastupdate's way, the others' ways.
RECIPES: tuple[tuple[str, type[Contestant], tuple[type[Contestant], ...]], ...] = (
    ("clip + AdamW", FastupdateClip, (TorchClip,)),
    (
        "scale + clip + AdamW + EMA + bfloat16 copy + zero + statistics",
        FastupdatePipeline,
        (TorchPipeline, TorchPipelineFolded, TorchPipelineWatched),
    ),
)
