"""The kernels of numba-cuda: what the other files here do with a block, compiled for a device.

One CUDA block of 32 threads works on one block of 1024 elements: thread j on elements j, j + 32, …, which is how sums
are defined.
"""

from __future__ import annotations

from collections.abc import Callable
from dis import get_instructions
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types
from numba.cuda.np.numpy_support import from_dtype

from fastupdate.engines.python import cuda_driver, formula, kernels, sums, tiles
from fastupdate.engines.python.formula import Target, compile_formula, in_float64
from fastupdate.rules import scalar

LANES = sums.LANES

device = cuda.jit(device=True)
inlined = cuda.jit(device=True, inline="always")


@device
def _thread():
    return cuda.threadIdx.x


@device
def _threads():
    return LANES


@device
def _meet():
    cuda.syncthreads()


@device
def _one(t, i, end, most):
    return 1


@device
def _no_rows(t, begin, out):
    """Gradients of few rows are for host memory alone."""


# What is another thing on a device than on a CPU.
_HERE = {
    sums.worker: _thread,
    sums.workers: _threads,
    sums.meet: _meet,
    tiles.stretch: _one,
    tiles.load_rows: _no_rows,
    tiles.view: cuda_driver.view,
    tiles.load_anywhere: cuda_driver.load_anywhere,
    tiles.store_anywhere: cuda_driver.store_anywhere,
}


def on_device(thing: Any) -> Any:
    """A function of ours, and those it calls, for a device; whatever else its text refers to, as it is."""
    text = getattr(thing, "py_func", None)
    return _on_device(thing) if isinstance(text, FunctionType) else thing


@cache
def _on_device(function: Any) -> Any:
    if function in _HERE:
        return _HERE[function]
    text, inline = function.py_func, function.targetoptions.get("inline") == "always"
    called = {each.argval for each in get_instructions(text) if each.opname == "LOAD_GLOBAL"}
    scope = {name: on_device(text.__globals__[name]) for name in called & text.__globals__.keys()}
    return (inlined if inline else device)(FunctionType(text.__code__, scope, text.__name__))


@device
def _positive_part(x):
    return maximum(x, x - x)


maximum = on_device(sums.maximum)

# What rules call that numba-cuda lacks.
SUBSTITUTES = {
    **formula.SUBSTITUTES,
    scalar.sqrt: cuda_driver.square_root,
    scalar.maximum: maximum,
    scalar.absolute: abs,
    scalar.positive_part: _positive_part,
}
SUBSTITUTES.update(in_float64(device, SUBSTITUTES))


class Device(Target):
    """A CUDA device."""

    def formula(self, function: Callable[..., Any], dtype: Any) -> Any:
        return compile_formula(function, dtype, device, SUBSTITUTES)

    def own(self, function: Any) -> Any:
        return on_device(function)

    def loop(self, function: Any, signature: Any) -> Any:
        return device(function)


DEVICE = Device()

_KERNEL = """
def {name}(tensors, {given}):
    lanes, levels = cuda.shared.array({lanes}, np.float64), cuda.local.array((1, {levels}), np.float64)
    tiles, terms = cuda.local.array(({tiles}, 1), dtype), cuda.local.array(({most}, 1), np.float64)
    room, block = Room(lanes, tiles, terms, levels, cuda.local.array({most}, np.float64)), cuda.blockIdx.x
    t = tensors[first_tensor(tensors, block)]
    if of_type(t, tiles):
        work({arguments})
"""


def kernel_of(work: Any, dtype: Any, functions: tuple[Any, ...]) -> Any:
    """The function of a kernel that does some work on a block, by these functions of a rule and of stages."""
    scope = {"cuda": cuda, "np": np, "Room": kernels.Room, "dtype": dtype, "work": on_device(work)}
    scope |= {each.py_func.__name__: on_device(each) for each in (kernels.first_tensor, kernels.of_type)}
    scope |= dict(zip(kernels.names_of(work)[3:], functions, strict=False))
    exec(kernels.written(_KERNEL, work, len(functions)), scope)
    return scope[work.py_func.__name__]


def signature(work: Any, dtype: Any, functions: tuple[Any, ...]) -> Any:
    """The argument types of a kernel."""
    x, f8, names = from_dtype(dtype), types.float64, kernels.names_of(work)[3 + len(functions) :]
    kinds = {
        "groups": from_dtype(tiles.GROUP)[::1],
        "scalars": x[:, ::1],
        "settling": f8[:, ::1],
        "sums": f8[:, ::1],
        "scale": f8,
        **dict.fromkeys(("overwrite", "clear", "by_rows", "columns"), types.boolean),
    }
    between = [kinds.get(name, types.int64) for name in names if name != "tensors"]
    return types.void(from_dtype(tiles.TENSOR)[::1], *between)


@cache
def compiled(work: Any, dtype: Any, functions: tuple[Any, ...], number: int) -> Any:
    """A kernel for one device."""
    kernel = kernel_of(work, dtype, functions)
    return cuda_driver.compiled(kernel, signature(work, dtype, functions), number)
