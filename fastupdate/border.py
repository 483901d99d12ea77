"""The border: turns what users hand in into NumPy arrays that share its memory, or says what is wrong with it.

Frameworks are recognised by the name of the type's module, so none is imported that the user has not imported.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from fastupdate import device
from fastupdate.plan import DTYPES, Array


class Place:
    """Names an argument in messages: `[adamw] grads['w']: expected …, received …`."""

    def __init__(self, rule: str, argument: str) -> None:
        self.rule = rule
        self.argument = argument

    def fail(self, error: type[Exception], expected: str, received: str) -> NoReturn:
        raise error(f"{self}: expected {expected}, received {received}")

    def __str__(self) -> str:
        return f"[{self.rule}] {self.argument}"


def framework_of(x: object) -> str:
    """`numpy`, `torch`, `cupy`, …: the top module of the type."""
    return type(x).__module__.partition(".")[0]


def as_array(x: Any, place: Place) -> Array:
    """A NumPy array over the memory of x, which may be of any framework. Never a copy."""
    if type(x) is np.ndarray or isinstance(x, device.DeviceArray):
        return x
    if isinstance(x, np.ma.MaskedArray):
        place.fail(TypeError, "an array without a mask", "a masked array")
    if isinstance(x, np.ndarray):
        return x.view(np.ndarray)
    try:
        shared = device.view(x) if device.is_device_array(x) else _shared(x)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise TypeError(f"{place}: cannot share the memory of {type(x).__name__}: {error}") from error
    if shared is None:
        place.fail(TypeError, "an array", "None" if x is None else type(x).__name__)
    return shared


def _shared(x: Any) -> Array | None:
    """A view of x by the protocol that it offers; None if it offers none."""
    if framework_of(x) == "torch":
        array: Array = x.detach().numpy()
        return array
    if _has_buffer(x):
        return np.asarray(memoryview(x))
    if hasattr(x, "__dlpack__"):
        return np.from_dlpack(x)
    return None


def _has_buffer(x: object) -> bool:
    try:
        memoryview(x)  # type: ignore[arg-type]
    except TypeError:
        return False
    return not isinstance(x, (bytes, bytearray))


def check_float(array: Array, place: Place) -> None:
    """float32 or float64 in native byte order."""
    if array.dtype not in DTYPES:
        kind = array.dtype.name if array.dtype.isnative else f"byte-swapped {array.dtype.name}"
        place.fail(TypeError, "float32 or float64", kind)


def check_distinct(array: Array, place: Place) -> None:
    """Every element has an address of its own: no broadcast axes, no overlapping windows."""
    axes = sorted((abs(stride), size) for size, stride in zip(array.shape, array.strides, strict=True) if size > 1)
    reach = array.itemsize
    for stride, size in axes:
        if array.size and stride < reach:
            place.fail(
                ValueError, "elements at addresses of their own", f"strides {array.strides} for shape {array.shape}"
            )
        reach += stride * (size - 1)


def parameter(x: Any, place: Place) -> Array:
    """x as an array that can be updated in place."""
    array = as_array(x, place)
    check_float(array, place)
    if not array.flags.writeable:
        place.fail(ValueError, "a writable array", "a read-only one")
    check_distinct(array, place)
    return array


def like(x: Any, param: Array, place: Place, *, samples: bool = False) -> Array:
    """x as an array of the parameter's dtype and shape, with one more leading axis if it holds `samples`."""
    array = as_array(x, place)
    if device.device_of(array) != device.device_of(param):
        expected, received = (device.location(device.device_of(a)) for a in (param, array))
        place.fail(TypeError, f"an array in {expected}", f"one in {received}")
    if array.dtype != param.dtype:
        place.fail(
            TypeError,
            param.dtype.name,
            array.dtype.name if array.dtype.isnative else f"byte-swapped {array.dtype.name}",
        )
    shape = array.shape[1:] if samples else array.shape
    if shape != param.shape or (samples and (array.ndim == 0 or len(array) == 0)):
        expected = f"shape ({'samples, ' + ', '.join(map(str, param.shape))})" if samples else f"shape {param.shape}"
        place.fail(ValueError, expected, f"shape {array.shape}")
    check_distinct(array, place)
    return array


def bounds(array: Array) -> tuple[int, int]:
    """First and one-past-last byte."""
    return np.lib.array_utils.byte_bounds(array)


def check_overlaps(arrays: list[Array], places: list[Place]) -> None:
    """No two arrays share an element."""
    spans = sorted((*bounds(a), i) for i, a in enumerate(arrays) if a.size)
    open_spans: list[tuple[int, int]] = []
    for begin, end, i in spans:
        open_spans = [(stop, k) for stop, k in open_spans if stop > begin]
        for _, k in open_spans:
            check_separate(arrays[i], arrays[k], places[i], places[k])
        open_spans.append((end, i))


def check_separate(a: Array, b: Array, place_a: Place, place_b: Place) -> None:
    """The two arrays share no element."""
    try:
        shared = np.shares_memory(a, b, max_work=10**6)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        shared = True
    if shared:
        place_a.fail(ValueError, f"memory apart from {place_b.argument}", "overlapping arrays")
