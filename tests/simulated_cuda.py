"""numba-cuda's simulator in the place of a device: engines/python/cuda_driver.py on host memory, and arrays there.

`install` must run in a process that was started with NUMBA_ENABLE_CUDASIM=1. As a script (FILE FIRST STEP) it does the
runs of tests/test_numba_cuda.py from FIRST on, each STEP-th, and writes what they leave behind to a file.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def view(address: Any, n: Any, dtype: Any) -> Any:
    if not n:
        return np.empty(0, dtype)
    return np.frombuffer((ctypes.c_char * (int(n) * np.dtype(dtype).itemsize)).from_address(int(address)), dtype)


def load_anywhere(address: Any, dtype: Any) -> Any:
    return view(address, 1, dtype)[0]


def store_anywhere(address: Any, value: Any, dtype: Any) -> None:
    view(address, 1, dtype)[0] = value


def square_root(x: Any) -> Any:
    return np.sqrt(x)


def compiled(function: Any, _signature: Any, _device: int) -> Any:
    from numba import cuda

    return cuda.jit(function)


def launch(kernel: Any, grid: tuple[int, int], _device: int, _stream: int, arguments: Any, out: Any) -> None:
    from numba import cuda

    there = [cuda.to_device(a) if isinstance(a, np.ndarray) else a for a in arguments]
    kernel[grid](*there)
    for a, uploaded in zip(arguments, there, strict=True):
        if a is out and out is not None:
            uploaded.copy_to_host(out)


class Memory:
    def __init__(self, size: int, _device: int) -> None:
        self._array = np.zeros(max(size, 1), np.uint8)

    @property
    def address(self) -> int:
        return int(self._array.__array_interface__["data"][0])


def copy_to_host(to: Any, source: int, _device: int, _stream: int) -> None:
    ctypes.memmove(to.ctypes.data, source, to.nbytes)


def copy_from_host(to: int, source: Any, _device: int, _stream: int) -> None:
    ctypes.memmove(to, source.ctypes.data, source.nbytes)


def wait(_stream: int, _device: int) -> None:
    waits.append(_stream)


def device_of(_address: int) -> int:
    return 0


def problem() -> str:
    return ""


def shared_array(self: Any, shape: Any, dtype: Any) -> Any:
    """The simulator's own looks for the array and then makes it: two threads may get one each. A kernel has but one."""
    with _sharing:
        return self._allocations.setdefault(shape, np.full(shape, np.nan, dtype))


_sharing = threading.Lock()
waits: list[int] = []  # streams that were waited for
DRIVER = (
    view, load_anywhere, store_anywhere, square_root, compiled, launch, Memory, copy_to_host, copy_from_host, wait,
    device_of, problem,
)  # fmt: skip


def install() -> None:
    """Makes fastupdate run device arrays in the simulator, as if there were no native CUDA module."""
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    from fastupdate.engines import choose, python

    FakeCUDAShared.array = shared_array

    driver = ModuleType("fastupdate.engines.python.cuda_driver")
    for each in DRIVER:
        setattr(driver, each.__name__, each)
    python.cuda_driver = sys.modules[driver.__name__] = driver
    sys.modules["fastupdate._cuda"] = None  # importing it fails
    choose.DEVICE_PROBLEMS["numba-cuda"] = lambda: None


class SimulatedArray:
    """An array that says it is in device memory."""

    def __init__(self, values: np.ndarray, stream: int = 1) -> None:
        self.values, self.stream, self.dtype = values, stream, values.dtype

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.values.__array_interface__, "stream": self.stream, "version": 3}


class Computing(np.ndarray):
    """What `frameworks.Buffer` makes room for, as an array that a library can compute with."""

    def __new__(cls, shape: Any, dtype: Any, _device: int) -> Any:
        return np.zeros(shape, dtype).view(cls)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.__array_interface__, "version": 3}

    def __matmul__(self, other: Any) -> Any:
        assert current == [1], "multiplied on another device than that of the arrays"
        return super().__matmul__(other)

    def __setitem__(self, key: Any, value: Any) -> None:
        assert current == [1], "assigned on another device than that of the array"
        super().__setitem__(key, value)


current: list[int] = []  # devices that somebody works on
linalg = np.linalg


@contextmanager
def working_on(_framework: Any, _device: int) -> Iterator[None]:
    current.append(1)
    yield
    current.pop()


def compute() -> None:
    """Arrays of no framework are from now on of one that multiplies matrices on whatever device is current."""
    from fastupdate.arrays import frameworks

    frameworks.Buffer = Computing
    frameworks.Exported.MULTIPLIES, frameworks.Exported.working_on = True, working_on


def main(path: Path, first: int, step: int) -> None:
    install()
    warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy's arithmetic in the simulator's threads
    sys.setswitchinterval(1e-4)  # the simulator's threads are short, and polled for
    import test_numba_cuda

    np.savez(path, **test_numba_cuda.outcomes(test_numba_cuda.RUNS[first::step], SimulatedArray, "numba-cuda"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
