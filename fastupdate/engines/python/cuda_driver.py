"""What the numba-cuda backend needs a device for: memory, streams, compilation, and a few instructions.

numba-cuda's simulator has none of these; tests put a module in this one's place that has them on host memory.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cuda
from numba.core.errors import NumbaExperimentalFeatureWarning
from numba.cuda import dispatcher, types
from numba.cuda.cudadrv import nvvm
from numba.cuda.extending import intrinsic
from numba.cuda.np.arrayobj import make_array, populate_array

from fastupdate.arrays.memory import Array

# Fused multiply-adds, and products and sums that ptxas may fuse for want of a rounding mode.
CONTRACTED = re.compile(r"\b(?:fma|mad)\.(?:\w+\.)*f(?:32|64)\b|\b(?:mul|add|sub)\.f(?:32|64)\b")


@intrinsic  # type: ignore[untyped-decorator]
def view(_typing: Any, _address: Any, _n: Any, dtype: Any) -> Any:
    """n elements from an address on, which is aligned. numba-cuda would leave out what is only written to a carray."""
    array = types.Array(dtype.dtype, 1, "C")

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        made, item = make_array(array)(context, builder), context.get_data_type(dtype.dtype)
        size = context.get_constant(types.intp, context.get_abi_sizeof(item))
        data = builder.inttoptr(arguments[0], item.as_pointer())
        populate_array(made, data=data, shape=[arguments[1]], strides=[size], itemsize=size, meminfo=None)
        return made._getvalue()

    return array(types.int64, types.int64, dtype), generate


@intrinsic  # type: ignore[untyped-decorator]
def load_anywhere(_typing: Any, _address: Any, dtype: Any) -> Any:
    """The value at any address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        there = builder.inttoptr(arguments[0], context.get_value_type(signature.return_type).as_pointer())
        return builder.load(there, align=1)

    return dtype.dtype(types.int64, dtype), generate


@intrinsic  # type: ignore[untyped-decorator]
def store_anywhere(_typing: Any, _address: Any, value: Any, dtype: Any) -> Any:
    """Writes a value to any address, byte by byte: a compiler would make one store of one and of another that is
    aligned."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, byte, size = arguments[0], ir.IntType(8), context.get_abi_sizeof(context.get_value_type(value))
        bits = builder.bitcast(arguments[1], ir.IntType(8 * size))
        for k in range(size):
            there = builder.inttoptr(builder.add(address, address.type(k)), byte.as_pointer())
            builder.store(builder.trunc(builder.lshr(bits, bits.type(8 * k)), byte), there)
        return context.get_dummy_value()

    return types.void(types.int64, value, dtype), generate


@cuda.jit(device=True)
def square_root(x):  # type: ignore[no-untyped-def]
    """√x, correctly rounded."""
    return math.sqrt(x)


@contextmanager
def exactly() -> Iterator[None]:
    """Within the context a·b + c is compiled as two roundings: numba-cuda has no option for libNVVM's -fma=0.

    Nor does it warn that functions are handed to functions, as kernels hand a rule's loops on.
    """
    compile_ir = nvvm.compile_ir
    nvvm.compile_ir = partial(compile_ir, fma=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumbaExperimentalFeatureWarning)
            yield
    finally:
        nvvm.compile_ir = compile_ir


def compiled(function: Callable[..., None], signature: Any, device: int) -> Any:
    """A kernel that does the arithmetic as written; RuntimeError if this numba-cuda will not compile it so."""
    with cuda.gpus[device], exactly():
        kernel = cuda.jit(signature, lto=False)(function)  # when linked from LTO-IR, a·b + c would be decided on again
        check_arithmetic("".join(kernel.inspect_asm().values()))
    return kernel


def check_arithmetic(ptx: str) -> None:
    """RuntimeError if an instruction might round once where the rule says twice."""
    found = CONTRACTED.search(ptx)
    if found:
        raise RuntimeError(
            f"this version of numba-cuda contracts floating-point operations ({found[0]}); install another"
        )


@contextmanager
def any_grid() -> Iterator[None]:
    """Within the context numba-cuda does not warn of grids that leave most of the device idle: small tensors do."""
    config = dispatcher.config
    warns = config.CUDA_LOW_OCCUPANCY_WARNINGS
    config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
    try:
        yield
    finally:
        config.CUDA_LOW_OCCUPANCY_WARNINGS = warns


def launch(
    kernel: Any, grid: tuple[int, int], device: int, stream: int, arguments: tuple[Any, ...], out: Array | None
) -> None:
    """Runs a kernel and waits; NumPy arrays among the arguments are uploaded, and the one that is `out` is fetched."""
    with cuda.gpus[device], any_grid():
        queue = cuda.external_stream(stream)
        there = [cuda.to_device(a, stream=queue) if isinstance(a, np.ndarray) else a for a in arguments]
        kernel[(*grid, queue)](*there)
        for a, uploaded in zip(arguments, there, strict=True):
            if a is out and out is not None:
                uploaded.copy_to_host(out, stream=queue)
        queue.synchronize()


class Memory:
    """Zeroed device memory."""

    def __init__(self, size: int, device: int) -> None:
        with cuda.gpus[device]:
            self._array = cuda.to_device(np.zeros(max(size, 1), np.uint8))

    @property
    def address(self) -> int:
        return int(self._array.__cuda_array_interface__["data"][0])


def _bytes_at(address: int, size: int) -> Any:
    interface = {"shape": (size,), "typestr": "|u1", "data": (address, False), "strides": None, "version": 3}
    return cuda.from_cuda_array_interface(interface)


def copy_to_host(to: Array, source: int, device: int, stream: int) -> None:
    """Fills a C-contiguous host array from device memory, in the order of the stream; waits."""
    with cuda.gpus[device]:
        queue = cuda.external_stream(stream)
        _bytes_at(source, to.nbytes).copy_to_host(to.reshape(-1).view(np.uint8), stream=queue)
        queue.synchronize()


def copy_from_host(to: int, source: Array, device: int, stream: int) -> None:
    """Copies a C-contiguous host array to device memory, in the order of the stream; waits."""
    with cuda.gpus[device]:
        queue = cuda.external_stream(stream)
        _bytes_at(to, source.nbytes).copy_to_device(source.reshape(-1).view(np.uint8), stream=queue)
        queue.synchronize()


def wait(stream: int, device: int) -> None:
    """Waits for everything that was queued on a stream."""
    with cuda.gpus[device]:
        cuda.external_stream(stream).synchronize()


def problem() -> str:
    """Nothing is known of it here: numba-cuda's own errors say why no device can be used."""
    return ""


def device_of(_address: int) -> int:
    """The current device: arrays that name none are taken to be there, as numba-cuda itself does."""
    return int(cuda.get_current_device().id)


def describe_dlpack(_capsule: Any) -> dict[str, Any]:
    raise TypeError("only the native CUDA module (see docs/gpu.md) reads DLPack; give it __cuda_array_interface__")
