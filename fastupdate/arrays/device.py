"""Arrays in device memory, seen through NumPy headers: shape, strides, dtype and address, but never the values."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby
from operator import setitem
from typing import Any, TypeGuard, cast

import numpy as np
from numpy.lib.array_utils import byte_bounds

from fastupdate.arrays.frameworks import DEFAULT_STREAM, CuPy, Exported, Framework, Torch, runtime
from fastupdate.arrays.memory import LINE, STORAGE, Array, Assignment, room, type_name

CUDA_DLPACK = 2  # kDLCUDA


class DeviceArray(np.ndarray[Any, Any]):
    """A NumPy header over device memory. What NumPy would read is fetched first; `array[...] = x` writes.

    owner      the user's array, or the one that was allocated through the user's framework
    framework  where it comes from
    number     of its CUDA device
    """

    owner: Any
    framework: Framework
    number: int

    def __array_finalize__(self, parent: Any) -> None:
        self.owner = getattr(parent, "owner", None)
        self.framework = getattr(parent, "framework", None)  # type: ignore[assignment]

    def fetch(self) -> Array:
        """A copy in host memory; waits for the device."""
        if not self.size:
            return np.empty(self.shape, self.dtype)
        held, begin = self._fetch_bytes()
        return np.ndarray(self.shape, self.dtype, held, self.__array_interface__["data"][0] - begin, self.strides)

    def _fetch_bytes(self) -> tuple[Array, int]:
        """All bytes from the first to the last element, and where they start."""
        begin, end = byte_bounds(self)
        held = np.empty(end - begin, np.uint8)
        runtime().copy_to_host(held, begin, self.number, self.framework.stream(self.number))
        return held, begin

    def __setitem__(self, key: Any, value: Any) -> None:
        """`array[...] = x` copies values from host or device memory; what lies between strided elements is kept."""
        if key is not Ellipsis:
            raise TypeError("elements of device arrays cannot be set one by one")
        values = np.asarray(on_host(value))
        if self.size:
            held, begin = self._fetch_bytes()
            offset = self.__array_interface__["data"][0] - begin
            np.ndarray(self.shape, self.dtype, held, offset, self.strides)[...] = values
            runtime().copy_from_host(begin, held, self.number, self.framework.stream(self.number))

    def copied(self, held: Array) -> tuple[Assignment, Assignment]:
        """The calls that copy a dense array to `held`, of as many bytes, and back."""
        place = (self.number, self.framework.stream(self.number))
        begin = byte_bounds(self)[0]
        return (runtime().copy_to_host, held, begin, *place), (runtime().copy_from_host, begin, held, *place)

    def copy(self, order: Any = "C") -> Array:  # type: ignore[override]
        """The values in host memory."""
        return np.array(self.fetch(), order=order)

    def __deepcopy__(self, memo: Any) -> Array:  # type: ignore[override]
        return self.copy()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return getattr(ufunc, method)(*(x.fetch() if isinstance(x, DeviceArray) else x for x in inputs), **kwargs)

    def __repr__(self) -> str:
        return f"<{self.dtype.name}{self.shape} on CUDA device {self.number}>"

    __str__ = __repr__


@cache
def array_type(device: int) -> type[DeviceArray]:
    """The type of the arrays on one device: one look at the type of an array tells both."""
    return type(f"DeviceArray{device}", (DeviceArray,), {"number": device})


class _Interface:
    def __init__(self, interface: Mapping[str, Any], owner: Any) -> None:
        self.__array_interface__ = dict(interface)
        self.owner = owner


def header(owner: Any, interface: Mapping[str, Any], framework: Framework, device: int) -> DeviceArray:
    """The header of an array that `interface` describes."""
    if 0 in interface["shape"]:  # an empty array, whose address NumPy 2.0 does not accept if it is 0
        interface = {**interface, "data": (LINE, False)}
    array = np.asarray(_Interface(interface, owner)).view(array_type(device))
    array.owner, array.framework = owner, framework
    return array


@cache
def framework_of_type(kind: Any) -> str:
    """What `framework_of` says of objects of a type."""
    tops = [base.__module__.partition(".")[0] for base in kind.__mro__]
    return "torch" if "torch" in tops else tops[0]


def framework_of(x: object) -> str:
    """`numpy`, `torch`, `cupy`, …: the top module of the type; a subclass of one of torch's is torch's too."""
    kind: Any = type(x)
    return framework_of_type(kind)


def is_device_array(x: object) -> bool:
    """Whether x lives on a CUDA device. JAX's type, like torch's, has CUDA's interface for arrays on the host too."""
    kind = type(x)
    if kind is np.ndarray:
        return False
    name = framework_of(x)
    if name == "torch":
        return bool(getattr(x, "is_cuda", False))
    if name in ("jax", "jaxlib") or not hasattr(kind, "__cuda_array_interface__"):
        return hasattr(kind, "__dlpack_device__") and x.__dlpack_device__()[0] == CUDA_DLPACK  # type: ignore[attr-defined]
    return True


def view(x: Any) -> DeviceArray:
    """The header of a device array; TypeError says what is wrong with it."""
    name = framework_of(x)
    if isinstance(x, DeviceArray):
        return x
    if name == "torch":
        return _view_torch(x)
    if not hasattr(type(x), "__cuda_array_interface__"):
        return _view_dlpack(x)
    interface = x.__cuda_array_interface__
    if interface.get("mask") is not None:
        raise TypeError("masked arrays have no single value for each element")
    dtype = getattr(x, "dtype", None)  # of one of NumPy's types, or of one that was added to them
    described = _described(interface, type_name(dtype) if isinstance(dtype, np.dtype) else "")
    if name == "cupy":
        return header(x, described, CuPy(), x.device.id)
    device = runtime().device_of(interface["data"][0]) if math.prod(interface["shape"]) else 0
    return header(x, described, Exported(interface.get("stream")), device)


def _described(interface: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The interface as NumPy takes it, of an array whose type has this name."""
    dtype = STORAGE[name].dtype if name in STORAGE else np.dtype(interface["typestr"])
    return {name: interface.get(name) for name in ("shape", "data", "strides")} | _typed(dtype) | {"version": 3}


def _typed(dtype: np.dtype[Any]) -> dict[str, Any]:
    return {"typestr": dtype.str, "descr": dtype.descr}


def _view_torch(x: Any) -> DeviceArray:
    if x.layout is not sys.modules["torch"].strided:
        raise TypeError(f"a {x.layout} tensor has no array of all its elements")
    name = str(x.dtype).removeprefix("torch.")
    dtype = STORAGE[name].dtype if name in STORAGE else np.dtype(name)
    strides = tuple(stride * x.element_size() for stride in x.stride())
    interface = {"shape": tuple(x.shape), "data": (x.data_ptr(), False), "strides": strides, "version": 3}
    return header(x, interface | _typed(dtype), Torch(), x.get_device())


def _view_dlpack(x: Any) -> DeviceArray:
    device = x.__dlpack_device__()[1]
    capsule = x.__dlpack__(stream=DEFAULT_STREAM)
    described = runtime().describe_dlpack(capsule)
    return header((x, capsule), _described(described, described["typestr"]), Exported(DEFAULT_STREAM), device)


def zeros_like(
    arrays: Sequence[Array],
    dtypes: Sequence[str],
    orders: Sequence[tuple[int, ...] | None],
    shapes: Sequence[tuple[int, ...]] | None = None,
) -> list[Array]:
    """New dense arrays of the same shapes, in the same kind of memory; bfloat16 as uint16.

    orders: the axes of each from the slowest in memory to the fastest; None: C order, as always on devices
    shapes: those of the new arrays, where they are others

    In host memory they lie one after the other, each from a cache line on: a step over many small tensors then walks
    straight ahead, and all of it can be in huge pages.
    """
    return zeros(arrays, runs_of([array.shape for array in arrays] if shapes is None else shapes, dtypes, orders))


def runs_of(
    shapes: Iterable[tuple[int, ...]],
    dtypes: Iterable[str | np.dtype[Any]],
    orders: Iterable[tuple[int, ...] | None],
) -> list[Run]:
    """What `zeros` is to make of these shapes, types and orders; for several lists of arrays alike it is made once."""
    return [Run(*like, len(list(alike))) for like, alike in groupby(zip(shapes, dtypes, orders, strict=True))]


def zeros(arrays: Sequence[Array], runs: Sequence[Run]) -> list[Array]:
    """New arrays of these runs, in the memory of these arrays (see `zeros_like`)."""
    if arrays and isinstance(arrays[0], DeviceArray):
        there = cast(Sequence[DeviceArray], arrays)  # all of them are, for a list is in one memory
        run_of = [run for run in runs for _ in range(run.count)]
        new = [view(a.framework.zeros(r.shape, r.dtype, a.number)) for a, r in zip(there, run_of, strict=True)]
        return [array.view(run.kind) for array, run in zip(new, run_of, strict=True)]
    held, at = room(sum(run.bytes for run in runs)), 0
    made: list[Array] = []
    for run in runs:
        made.extend(run.laid_out(held, at))
        at += run.bytes
    return made


class Run:
    """New arrays that are alike and, in host memory, follow each other, each from a cache line on."""

    def __init__(
        self, shape: tuple[int, ...], dtype: str | np.dtype[Any], order: tuple[int, ...] | None, count: int
    ) -> None:
        self.shape, self.order, self.count = shape, order, count
        self.dtype = dtype if isinstance(dtype, str) else type_name(dtype)
        self.kind = _bits(self.dtype)
        self.size = -(-math.prod(shape) * self.kind.itemsize // LINE) * LINE
        self.bytes = self.size * count

    def laid_out(self, memory: Array, at: int) -> Iterable[Array]:
        """Their headers over these bytes."""
        if self.order is not None:
            return [self._ordered(memory, at + k * self.size) for k in range(self.count)]
        if self.count == 1 or not self.shape or not self.size:
            return [np.ndarray(self.shape, self.kind, memory, at + k * self.size) for k in range(self.count)]
        strides = [math.prod(self.shape[axis + 1 :]) * self.kind.itemsize for axis in range(len(self.shape))]
        return np.ndarray((self.count, *self.shape), self.kind, memory, at, (self.size, *strides))

    def _ordered(self, memory: Array, at: int) -> Array:
        assert self.order is not None
        there: Array = np.ndarray([self.shape[axis] for axis in self.order], self.kind, memory, at)
        return there.transpose(np.argsort(self.order))


def _bits(dtype: str) -> np.dtype[Any]:
    return STORAGE[dtype].bits if dtype in STORAGE else np.dtype(dtype)


def copies_like(
    arrays: Sequence[Array], values: Iterable[Array], dtypes: Sequence[str], orders: Sequence[tuple[int, ...] | None]
) -> list[Array]:
    """`values`, of host memory, as new arrays like those of `zeros_like`."""
    copies = zeros_like(arrays, dtypes, orders)
    for copy, value in zip(copies, values, strict=True):
        copy[...] = value
    return copies


class Placed:
    """A backend for arrays of one framework on one device."""

    def __init__(self, framework: Framework, number: int) -> None:
        self.framework, self.device = framework, number

    def reads(self, tensor: Any) -> bool:
        """Engines for devices see torch tensors by headers over their memory."""
        return False


def on_host(array: Array) -> Array:
    """The values where NumPy can read them: the array itself, or a copy of a device array."""
    return array.fetch() if isinstance(array, DeviceArray) else array


def assignment(array: Array, values: Array) -> Assignment:
    """`array[...] = values` as a function and its arguments: one of C, but for strided arrays on a device."""
    values = on_host(values)
    if not _dense(array):
        return (setitem, array, ..., values)
    held = np.empty(array.nbytes, np.uint8)
    np.ndarray(array.shape, array.dtype, held, 0, array.strides)[...] = values
    return array.copied(held)[1]


def keeping(array: Array) -> tuple[Assignment, Assignment]:
    """The assignments that put the values of an array aside and back."""
    if _dense(array):
        return array.copied(np.empty(array.nbytes, np.uint8))
    kept = array.copy()
    return (int,) if isinstance(array, DeviceArray) else (setitem, kept, ..., array), (setitem, array, ..., kept)


def _dense(array: Array) -> TypeGuard[DeviceArray]:
    """Whether it is on a device and all bytes from its first to its last are its own."""
    if not isinstance(array, DeviceArray) or not array.size:
        return False
    begin, end = byte_bounds(array)
    return end - begin == array.nbytes and begin == array.__array_interface__["data"][0]


def owner_of(array: Any) -> Any:
    """What the user may hold: the array itself, or the framework's own array of a device array."""
    return array.owner if isinstance(array, DeviceArray) else array


def device_of(array: Array) -> int | None:
    """The CUDA device of an array; None in host memory."""
    return array.number if isinstance(array, DeviceArray) else None


def location(device: int | None) -> str:
    """A place as messages name it."""
    return "host memory" if device is None else f"CUDA device {device}"
