"""AdamW as each library offers it: one class per contestant, each over arrays of its own.

A contestant is made, warmed up and asked for `step` many times; `before(steps)` is called, untimed, ahead of every
timed run of that many steps. `outcome()` then tells what the steps did, so that all can be compared.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import fastupdate as fu
from bench.workloads import Array, Workload

LR, BETA1, BETA2, EPS, DECAY = 1e-3, 0.9, 0.999, 1e-8, 0.01
HYPERS: dict[str, Any] = {"lr": LR, "betas": (BETA1, BETA2), "eps": EPS, "weight_decay": DECAY}

BLOCK = 1024  # of fastupdate's plan
PARALLEL = 32768  # elements from which more than one thread pays
STREAM_FACTOR = 1e-9  # of the stream's arithmetic


class Contestant:
    """One library's step over a workload."""

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()  # what it needs
    note: ClassVar[str] = ""  # where it does less, or more
    comparable: ClassVar[bool] = True  # computes AdamW
    tolerance: ClassVar[float] = 1e-3  # relative difference from fastupdate's results that is let through
    step: Callable[[], object]

    def __init__(self, workload: Workload, threads: int) -> None:
        self.workload = workload
        self.threads = threads
        self.sets: list[list[Any]] = []  # gradient arrays of the steps to come
        self.used: list[list[Any]] = []  # those of the steps taken: freeing them is not the step's work
        self.params: list[Any] = workload.parameters()
        self.grads: list[Any] = workload.gradients()

    @classmethod
    def problem(cls, workload: Workload) -> str | None:
        """Why it cannot take part; None if it can."""
        for module in cls.modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                return f"{module} is not installed ({error})"
        return None

    def before(self, steps: int) -> None:
        """Makes the coming steps' gradients, where each step needs its own."""
        self.used = []
        if self.workload.fresh:
            self.sets = [[self.copied(g) for g in self.grads] for _ in range(steps)]

    def copied(self, grad: Any) -> Any:
        return grad.copy()

    def next_gradients(self) -> list[Any]:
        if not self.sets:
            return self.grads
        self.used.append(self.sets.pop())
        return self.used[-1]

    def results(self) -> list[Array]:
        """The parameters, as NumPy arrays."""
        return [np.asarray(p) for p in self.params]

    def moved(self, arrays: list[Array]) -> list[Array]:
        """How far arrays are from where the parameters began."""
        return [np.asarray(a - start) for a, start in zip(arrays, self.workload.parameters(), strict=True)]

    def outcome(self) -> dict[str, list[Array]]:
        """What the steps did, by name."""
        return {"parameters": self.moved(self.results())}


class Fastupdate(Contestant):
    name = "fastupdate"
    optimizer_class: ClassVar[type[fu.Optimizer]] = fu.AdamW
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        fu.set_num_threads(threads)
        self.optimizer = self.optimizer_class(self.params, **HYPERS, **self.options)
        if workload.fresh:
            self.step = lambda: self.optimizer.step(self.next_gradients())
        else:
            self.optimizer.bind(self.grads)
            self.step = self.optimizer.step


class Stream(Contestant):
    name = "stream"
    note = "the same reads and writes, one multiplication (bench/stream.c)"
    comparable = False
    divides: ClassVar[bool] = False

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        self.states = [[np.zeros_like(p) for p in self.params] for _ in range(2)]
        arrays = (self.params, self.grads, *self.states)
        sizes = np.array([p.size for p in self.params])
        blocks = -(-sizes // BLOCK)
        self.table = np.empty((len(sizes), 6), np.int64)
        for k, column in enumerate(arrays):
            self.table[:, k] = [a.__array_interface__["data"][0] for a in column]
        self.table[:, 4] = sizes
        self.table[:, 5] = np.cumsum(blocks) - blocks
        teams = threads if workload.elements >= PARALLEL else 1
        arguments = (self.table.ctypes.data, len(sizes), int(blocks.sum()), teams, STREAM_FACTOR, self.divides)
        self.step = functools.partial(library().stream, *arguments)

    @classmethod
    def problem(cls, workload: Workload) -> str | None:
        if compiler() is None:
            return "there is no C compiler (cc, gcc or clang)"
        return "new gradient arrays mean nothing to it" if workload.fresh else None


class StreamDivided(Stream):
    name = "stream, dividing"
    note = "the same, one division"
    divides = True


def compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


@functools.cache
def library() -> ctypes.CDLL:
    """stream.c, compiled for this machine."""
    source = Path(__file__).with_name("stream.c")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, "stream.so")
        flags = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
        subprocess.run([compiler() or "cc", *flags, str(source), "-o", str(built)], check=True)
        loaded = ctypes.CDLL(str(built))
    int64, integer = ctypes.c_int64, ctypes.c_int
    loaded.stream.argtypes = [ctypes.c_void_p, int64, int64, integer, ctypes.c_float, integer]
    loaded.stream.restype = loaded.pass_over.restype = loaded.rows_stream.restype = None
    return loaded


class NumPy(Contestant):
    name = "NumPy"
    note = "one thread"

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        self.m, self.v = ([np.zeros_like(p) for p in self.params] for _ in range(2))
        self.t = 0

    def step(self) -> None:
        self.t += 1
        rate, root = LR / (1 - BETA1**self.t), (1 - BETA2**self.t) ** 0.5
        for p, g, m, v in zip(self.params, self.next_gradients(), self.m, self.v, strict=True):
            m *= BETA1
            m += (1 - BETA1) * g
            v *= BETA2
            v += (1 - BETA2) * g * g
            p *= 1 - LR * DECAY
            p -= rate * m / (np.sqrt(v) / root + EPS)


class Numba(Contestant):
    name = "Numba"
    modules = ("numba",)
    note = "a fused loop written by hand, called per tensor; parallel from 32768 elements"

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        import numba

        numba.set_num_threads(threads)
        self.states = [[np.zeros(p.size, np.float32) for p in self.params] for _ in range(2)]
        self.flat = [p.reshape(-1) for p in self.params]
        serial, parallel = numba_kernels()
        self.kernels = [parallel if p.size >= PARALLEL else serial for p in self.params]
        self.t = 0

    def step(self) -> None:
        self.t += 1
        scalars = (BETA1, 1 - BETA1, BETA2, 1 - BETA2, EPS, 1 - LR * DECAY)
        rate, root = LR / (1 - BETA1**self.t), (1 - BETA2**self.t) ** 0.5
        s = tuple(map(np.float32, (*scalars, rate, 1 / root)))
        for kernel, p, g, m, v in zip(self.kernels, self.flat, self.next_gradients(), *self.states, strict=True):
            kernel(p, g.reshape(-1), m, v, s)


@functools.cache
def numba_kernels() -> tuple[Any, Any]:
    """The loop, serial and parallel."""
    import numba

    def adamw(p: Any, g: Any, m: Any, v: Any, s: Any) -> None:
        beta1, one_minus_beta1, beta2, one_minus_beta2, eps, decay, rate, root = s
        for i in numba.prange(p.size):
            m[i] = beta1 * m[i] + one_minus_beta1 * g[i]
            v[i] = beta2 * v[i] + one_minus_beta2 * (g[i] * g[i])
            p[i] = decay * p[i] - rate * m[i] / (np.sqrt(v[i]) * root + eps)

    return numba.njit(adamw, error_model="numpy"), numba.njit(adamw, parallel=True, error_model="numpy")


class Torch(Contestant):
    """torch.optim.AdamW, over torch's own memory."""

    modules: ClassVar[tuple[str, ...]] = ("torch",)
    options: ClassVar[dict[str, Any]] = {}  # of torch.optim.AdamW

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        import torch

        torch.set_num_threads(threads)
        self.params = [torch.nn.Parameter(torch.from_numpy(p).clone()) for p in self.params]
        self.grads = [torch.from_numpy(g).clone() for g in self.grads]
        self.point_to(self.grads)
        self.optimizer = self.make_optimizer()
        self.step = self.optimizer.step

    def make_optimizer(self) -> Any:
        import torch

        return torch.optim.AdamW(self.params, **HYPERS, **self.options)

    def point_to(self, grads: list[Any]) -> None:
        for p, g in zip(self.params, grads, strict=True):
            p.grad = g

    def before(self, steps: int) -> None:
        """New gradients where those of the step before were freed, as `zero_grad` and a backward pass make them."""
        if self.workload.fresh:
            self.point_to([None] * len(self.params))
            for p, g in zip(self.params, self.grads, strict=True):
                p.grad = self.copied(g)

    def copied(self, grad: Any) -> Any:
        return grad.clone()

    def results(self) -> list[Array]:
        return [p.detach().numpy() for p in self.params]


class TorchDefault(Torch):
    name = "torch default"


class TorchForeach(Torch):
    name = "torch foreach"
    options: ClassVar = {"foreach": True}


class TorchFused(Torch):
    name = "torch fused"
    options: ClassVar = {"fused": True}


class DeepSpeed(Torch):
    name = "DeepSpeed CPUAdam"
    modules = ("torch", "deepspeed")

    def make_optimizer(self) -> Any:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(self.params, **HYPERS, adamw_mode=True)


class Optax(Contestant):
    name = "optax jit"
    modules = ("jax", "optax")
    note = "donated buffers; XLA's own threads, as many as cores"
    most_tensors = 1000

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        import jax
        import optax

        optimizer = optax.adamw(LR, b1=BETA1, b2=BETA2, eps=EPS, weight_decay=DECAY)

        def update(params: Any, state: Any, grads: Any) -> Any:
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self.params = [jax.numpy.array(p) for p in self.params]
        self.grads = [jax.numpy.array(g) for g in self.grads]
        self.state = optimizer.init(self.params)
        self.update = jax.jit(update, donate_argnums=(0, 1))
        self.wait: Any = jax.block_until_ready

    @classmethod
    def problem(cls, workload: Workload) -> str | None:
        if len(workload.shapes) > cls.most_tensors:
            return f"compiling a step over more than {cls.most_tensors} tensors takes minutes"
        return super().problem(workload)

    def step(self) -> None:
        self.params, self.state = self.wait(self.update(self.params, self.state, self.next_gradients()))


class Thinc(Contestant):
    name = "thinc"
    modules = ("thinc.api",)
    note = "one thread; also zeroes the gradients; decays in two NumPy passes"

    def __init__(self, workload: Workload, threads: int) -> None:
        super().__init__(workload, threads)
        import thinc.api

        make: Any = thinc.api.Adam
        self.optimizer = make(LR, L2=DECAY, beta1=BETA1, beta2=BETA2, eps=EPS, grad_clip=0.0, use_averages=False)
        self.params = [np.atleast_1d(p) for p in self.params]
        self.grads = [np.atleast_1d(g) for g in self.grads]
        self.keys = [(k, "w") for k in range(len(self.params))]
        self.buffers: list[list[Array]] = []

    def before(self, steps: int) -> None:
        if self.workload.fresh or len(self.buffers) != steps:
            self.buffers = [[g.copy() for g in self.grads] for _ in range(steps)]
        for buffer in self.buffers:
            for array, g in zip(buffer, self.grads, strict=True):
                np.copyto(array, g)
        self.sets = list(self.buffers)

    def step(self) -> None:
        for key, p, g in zip(self.keys, self.params, self.next_gradients(), strict=True):
            self.optimizer(key, p, g)

    def results(self) -> list[Array]:
        return [p.reshape(shape) for p, shape in zip(self.params, self.workload.shapes, strict=True)]


# In this order, for small arrays get scattered over the heap as contestants come and go.
PEERS: tuple[type[Contestant], ...] = (
    Stream,
    StreamDivided,
    TorchFused,
    TorchForeach,
    TorchDefault,
    DeepSpeed,
    Optax,
    Thinc,
    Numba,
    NumPy,
)
