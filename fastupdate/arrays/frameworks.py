"""The frameworks that arrays in device memory come from: they are asked for memory and for their current stream.

None is imported that the user has not imported.
"""

from __future__ import annotations

import math
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from fastupdate.arrays.memory import STORAGE

DEFAULT_STREAM = 1  # the legacy default stream, as __cuda_array_interface__ numbers it


def runtime() -> Any:
    """What allocates and copies device memory: the native module, or numba-cuda where that is absent."""
    try:
        from fastupdate import _cuda

        return _cuda
    except ImportError:
        pass
    try:
        from fastupdate.engines.python import cuda_driver
    except ImportError as error:
        raise RuntimeError("neither fastupdate's CUDA module nor numba-cuda is installed (see docs/gpu.md)") from error
    return cuda_driver


class Framework(Protocol):
    """Where an array comes from. Equal ones share a current stream."""

    MULTIPLIES: ClassVar[bool]  # whether it multiplies matrices, those that `zeros` makes among them

    def stream(self, device: int) -> int:
        """The stream on which the user's work is queued, as a cudaStream_t."""

    def owner_of_stream(self, device: int) -> Any:
        """What keeps that stream alive."""

    def zeros(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        """A new C-contiguous array of the user's own kind; bfloat16 as uint16 where the framework has no such type."""

    def working_on(self, device: int) -> AbstractContextManager[Any]:
        """Within the context, what the framework makes of arrays on a device is on that device."""


@dataclass(frozen=True)
class Torch:
    """torch.Tensor on a CUDA device."""

    MULTIPLIES: ClassVar[bool] = True

    def stream(self, device: int) -> int:
        return int(self.owner_of_stream(device).cuda_stream)

    def owner_of_stream(self, device: int) -> Any:
        return sys.modules["torch"].cuda.current_stream(device)

    def zeros(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        torch = sys.modules["torch"]
        return torch.zeros(shape, dtype=getattr(torch, dtype), device=f"cuda:{device}")

    def working_on(self, device: int) -> AbstractContextManager[Any]:
        return nullcontext()  # torch goes by its arrays


@dataclass(frozen=True)
class CuPy:
    """cupy.ndarray."""

    MULTIPLIES: ClassVar[bool] = True

    def stream(self, device: int) -> int:
        return int(self.owner_of_stream(device).ptr)

    def owner_of_stream(self, device: int) -> Any:
        return sys.modules["cupy"].cuda.get_current_stream(device)

    def zeros(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        with self.working_on(device):
            return sys.modules["cupy"].zeros(shape, STORAGE[dtype].bits)

    def working_on(self, device: int) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = sys.modules["cupy"].cuda.Device(device)
        return context


@dataclass(frozen=True)
class Exported:
    """Any other array that has `__cuda_array_interface__` or DLPack, with the stream that it names, if it does."""

    MULTIPLIES: ClassVar[bool] = False

    handle: int | None

    def stream(self, device: int) -> int:
        return self.handle or DEFAULT_STREAM

    def owner_of_stream(self, device: int) -> Any:
        return None

    def zeros(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        return Buffer(shape, STORAGE[dtype].bits, device)

    def working_on(self, device: int) -> AbstractContextManager[Any]:
        return nullcontext()


UNORDERED = Exported(None)  # of arrays that name no stream: nothing is to be waited for


class Buffer:
    """Zeroed device memory, for arrays of frameworks that cannot be asked for any."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], device: int) -> None:
        self._memory = runtime().Memory(math.prod(shape) * dtype.itemsize, device)
        self.shape, self.dtype = shape, dtype

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = (self._memory.address, False)
        return {"shape": self.shape, "typestr": self.dtype.str, "data": data, "strides": None, "version": 3}
