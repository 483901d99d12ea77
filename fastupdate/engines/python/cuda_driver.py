"""What the numba-cuda backend needs a device for: memory, streams, compilation, and a few instructions.

numba-cuda's simulator has none of these; tests put a module in this one's place that has them on host memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import dispatcher, types
from numba.cuda.cudadrv import nvvm
from numba.cuda.extending import intrinsic

from fastupdate.arrays.memory import Array

# Fused multiply-adds, and products and sums that ptxas may fuse for want of a rounding mode.
CONTRACTED = re.compile(r"\b(?:fma|mad)\.(?:\w+\.)*f(?:32|64)\b|\b(?:mul|add|sub)\.f(?:32|64)\b")


def _loading(like: Any, align: int | None) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], context.get_value_type(like).as_pointer()), align=align)

    return like(types.int64, like), generate


@intrinsic  # type: ignore[untyped-decorator]
def load(_typing: Any, _address: Any, like: Any) -> Any:
    """The value at an address that is aligned, of the type of `like`."""
    return _loading(like, None)


@intrinsic  # type: ignore[untyped-decorator]
def load_bytes(_typing: Any, _address: Any, like: Any) -> Any:
    """The same at any address."""
    return _loading(like, 1)


def _storing(value: Any, align: int | None) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        there = builder.inttoptr(arguments[0], context.get_value_type(value).as_pointer())
        builder.store(arguments[1], there, align=align)
        return context.get_dummy_value()

    return types.void(types.int64, value), generate


@intrinsic  # type: ignore[untyped-decorator]
def store(_typing: Any, _address: Any, value: Any) -> Any:
    """Writes a value of any scalar type to an address that is aligned."""
    return _storing(value, None)


@intrinsic  # type: ignore[untyped-decorator]
def store_bytes(_typing: Any, _address: Any, value: Any) -> Any:
    """The same to any address."""
    return _storing(value, 1)


@intrinsic  # type: ignore[untyped-decorator]
def float_bits(_typing: Any, _x: Any) -> Any:
    """The bits of a float32, as an int64 ≥ 0."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], context.get_value_type(types.int32))
        return builder.zext(bits, context.get_value_type(types.int64))

    return types.int64(types.float32), generate


@intrinsic  # type: ignore[untyped-decorator]
def bits_float(_typing: Any, _x: Any) -> Any:
    """The float32 of the low 32 bits of an int64."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        bits = builder.trunc(arguments[0], context.get_value_type(types.int32))
        return builder.bitcast(bits, context.get_value_type(types.float32))

    return types.float32(types.int64), generate


@cuda.jit(device=True)
def square_root(x):  # type: ignore[no-untyped-def]
    """√x, correctly rounded."""
    return math.sqrt(x)


@contextmanager
def contraction_off() -> Iterator[None]:
    """Within the context a·b + c is compiled as two roundings: numba-cuda has no option for libNVVM's -fma=0."""
    compile_ir = nvvm.compile_ir
    nvvm.compile_ir = partial(compile_ir, fma=False)
    try:
        yield
    finally:
        nvvm.compile_ir = compile_ir


def compiled(function: Callable[..., None], signature: Any, device: int) -> Any:
    """A kernel that does the arithmetic as written; RuntimeError if this numba-cuda will not compile it so."""
    with cuda.gpus[device], contraction_off():
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
