"""AdamW, clipping and whole pipelines as each library offers them on a GPU. As in bench/contestants.py, but every
contestant is asked for one step at a time, and `refill` puts back, untimed, the gradients that a step used up."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import numpy as np

import fastupdate as fu
from bench.contestants import BETA1, BETA2, DECAY, EPS, HYPERS, LR, Contestant
from bench.pipelines import EMA_DECAY, LOSS_SCALE, MAX_NORM
from bench.workloads import Array, Workload

MANY = 1000  # tensors for which compiling a step takes minutes
WARM_UP = 3  # steps before a step is captured
EVERYTHING: dict[str, Any] = {
    "clip_norm": MAX_NORM, "nonfinite": "skip", "ema_decay": EMA_DECAY, "shadow": "bfloat16", "zero_grads": True,
    "monitor": True,
}  # fmt: skip


class OnDevice(Contestant):
    """Torch tensors on a device; `device` is the CPU only where tests have no other."""

    modules: ClassVar[tuple[str, ...]] = ("torch",)
    device: ClassVar[str] = "cuda"
    timed_by_events: ClassVar[bool] = True  # whether its work is queued on torch's current stream
    tolerance: ClassVar[float] = 1e-3

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload, threads=1)
        import torch

        self.params = [torch.from_numpy(p).to(self.device, copy=True) for p in self.params]
        self.filled = [torch.from_numpy(g).to(self.device, copy=True) for g in self.grads]
        self.grads = [g.clone() for g in self.filled]

    def refill(self) -> None:
        import torch

        torch._foreach_copy_(self.grads, self.filled)

    def results(self) -> list[Array]:
        return [p.detach().cpu().numpy() for p in self.params]


class Copy(OnDevice):
    """As many bytes as AdamW moves, half of them read and half written."""

    name = "copy"
    note = "device-to-device copy of as many bytes: the yardstick"
    comparable = False

    def __init__(self, workload: Workload) -> None:
        import torch

        self.workload = workload
        elements = 14 * workload.elements // 4
        self.source, self.target = (torch.ones(elements, device=self.device) for _ in range(2))

    def refill(self) -> None:
        """Nothing is used up."""

    def step(self) -> None:
        self.target.copy_(self.source)


class Ours(OnDevice):
    name = "fastupdate"
    options: ClassVar[dict[str, Any]] = {}
    loss_scale: ClassVar[float] = 1.0
    backend: ClassVar[str | None] = None

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self.optimizer = fu.AdamW(self.params, **HYPERS, **self.options, backend=self.backend)
        self.optimizer.bind(self.grads)

    def step(self) -> None:
        self.optimizer.step(loss_scale=self.loss_scale)


class OursClip(Ours):
    options: ClassVar = {"clip_norm": MAX_NORM, "nonfinite": "skip"}
    loss_scale = LOSS_SCALE


class OursPipeline(OursClip):
    options: ClassVar = EVERYTHING


class OursNumba(Ours):
    name = "fastupdate, numba-cuda"
    note = "the fallback without the native module; waits for every step"
    backend = "numba-cuda"
    modules = ("torch", "numba_cuda")


class OursCaptured(Ours):
    name = "fastupdate, captured"
    note = "before_replay and the launch of a CUDA graph"
    comparable = False  # warming up took more steps

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self.graph = captured(self.optimizer.step)

    def step(self) -> None:
        self.optimizer.before_replay()
        self.graph.replay()


def captured(step: Any) -> Any:
    """A CUDA graph of a step that has been warmed up."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


class Torch(OnDevice):
    options: ClassVar[dict[str, Any]] = {"fused": True}

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        import torch

        self.params = [torch.nn.Parameter(p) for p in self.params]
        for p, g in zip(self.params, self.grads, strict=True):
            p.grad = g
        self.optimizer = torch.optim.AdamW(self.params, **HYPERS, **self.options)
        self.step = self.optimizer.step


class TorchForeach(Torch):
    name = "torch foreach"
    options: ClassVar = {"foreach": True}


class TorchFused(Torch):
    name = "torch fused"


class TorchCompiled(Torch):
    name = "torch compiled"
    options: ClassVar = {"foreach": True, "capturable": True}

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        import torch

        self.step = torch.compile(self.optimizer.step, fullgraph=False)

    @classmethod
    def problem(cls, workload: Workload) -> str | None:
        return too_many(workload) or super().problem(workload)


class TorchCaptured(Torch):
    name = "torch fused, captured"
    note = "the launch of a CUDA graph"
    comparable = False  # warming up took more steps
    options: ClassVar = {"fused": True, "capturable": True}

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self.step = captured(self.optimizer.step).replay


class TorchClip(Torch):
    """GradScaler.unscale_, clip_grad_norm_ (foreach), AdamW (fused)."""

    name = "torch unscale + clip + fused"
    tolerance = 0.03  # torch sums squares in float32: norms of large tensors come out too small

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        import torch

        self.scaler = torch.amp.GradScaler(self.device, init_scale=LOSS_SCALE, growth_interval=10**9)
        self.scaler.scale(torch.zeros((), device=self.device))  # makes its state
        self.step = self.scaled_step

    def scaled_step(self) -> None:
        import torch

        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.params, MAX_NORM, foreach=True)
        self.scaler.step(self.optimizer)
        self.scaler.update()


class TorchPipeline(TorchClip):
    """Also moving average, bfloat16 copy, zeroed gradients and norms of gradients, weights and updates."""

    name = "torch pipeline, foreach + fused"
    note = "norms only; fastupdate's statistics are more"

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self.values = [p.detach() for p in self.params]
        self.average, self.old = ([p.clone() for p in self.values] for _ in range(2))
        self.shadow = [p.bfloat16() for p in self.values]
        self.step = self.whole_step

    def whole_step(self) -> None:
        import torch

        with torch.no_grad():
            self.grad_norms = torch._foreach_norm(self.grads)
            torch._foreach_copy_(self.old, self.values)
            self.scaled_step()
            torch._foreach_lerp_(self.average, self.values, 1 - EMA_DECAY)
            torch._foreach_copy_(self.shadow, self.values)
            torch._foreach_zero_(self.grads)
            self.weight_norms = torch._foreach_norm(self.values)
            torch._foreach_sub_(self.old, self.values)
            self.update_norms = torch._foreach_norm(self.old)


class CuPy(OnDevice):
    name = "CuPy kernel"
    modules = ("torch", "cupy")
    note = "an elementwise kernel written by hand, launched per tensor"

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        import cupy

        arrays = (self.params, self.grads)
        self.arrays = [[cupy.from_dlpack(a) for a in each] for each in arrays]
        self.states = [[cupy.zeros_like(p) for p in self.arrays[0]] for _ in range(2)]
        self.t = 0
        self.kernel = cupy.ElementwiseKernel(
            "float32 g, float32 beta1, float32 beta2, float32 rate, float32 root, float32 decay, float32 eps",
            "float32 p, float32 m, float32 v",
            "m += (1 - beta1) * (g - m); v = beta2 * v + (1 - beta2) * g * g;"
            "p = p * decay - rate * m / (sqrtf(v) * root + eps);",
            "adamw",
        )

    def step(self) -> None:
        self.t += 1
        rate, root = LR / (1 - BETA1**self.t), (1 - BETA2**self.t) ** -0.5
        scalars = tuple(map(np.float32, (BETA1, BETA2, rate, root, 1 - LR * DECAY, EPS)))
        params, grads = self.arrays
        for p, g, m, v in zip(params, grads, *self.states, strict=True):
            self.kernel(g, *scalars, p, m, v)


class Optax(Contestant):
    name = "optax jit"
    modules = ("jax", "optax")
    note = "donated buffers; wall time only, for it has streams of its own"
    timed_by_events: ClassVar[bool] = False
    platform: ClassVar[str] = "gpu"

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload, threads=1)
        import jax
        import optax

        optimizer = optax.adamw(LR, b1=BETA1, b2=BETA2, eps=EPS, weight_decay=DECAY)

        def update(params: Any, state: Any, grads: Any) -> Any:
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self.params, self.grads = jax.device_put(self.params), jax.device_put(self.grads)
        self.state = optimizer.init(self.params)
        self.update = jax.jit(update, donate_argnums=(0, 1))
        self.wait: Any = jax.block_until_ready

    @classmethod
    def problem(cls, workload: Workload) -> str | None:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or it takes three quarters of the memory
        missing = too_many(workload) or super().problem(workload)
        if missing:
            return missing
        import jax

        found = jax.default_backend()
        return None if found == cls.platform else f"jax runs on {found} here"

    def refill(self) -> None:
        """Gradients are never changed."""

    def step(self) -> None:
        self.params, self.state = self.wait(self.update(self.params, self.state, self.grads))


def too_many(workload: Workload) -> str | None:
    return f"compiling a step over more than {MANY} tensors takes minutes" if len(workload.shapes) > MANY else None


# Per recipe: what it is called, fastupdate's way, the others' ways. The yardstick comes first.
RECIPES: tuple[tuple[str, type[Ours], tuple[type[Any], ...]], ...] = (
    (
        "AdamW",
        Ours,
        (Copy, TorchFused, TorchForeach, TorchCaptured, TorchCompiled, CuPy, Optax, OursCaptured, OursNumba),
    ),
    ("unscale + clip + AdamW", OursClip, (Copy, TorchClip)),
    ("unscale + clip + AdamW + EMA + bfloat16 copy + zero + statistics", OursPipeline, (Copy, TorchPipeline)),
)
