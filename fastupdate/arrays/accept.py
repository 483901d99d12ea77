"""The border: turns what users hand in into NumPy arrays that share its memory, or says what is wrong with it.

Frameworks are recognised by the name of the type's module, so none is imported that the user has not imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastupdate.arrays import device, memory
from fastupdate.arrays.device import framework_of as framework_of
from fastupdate.arrays.frameworks import runtime
from fastupdate.arrays.memory import DTYPES, STORAGE, Array
from fastupdate.arrays.overlap import check_distinct
from fastupdate.arrays.place import Place


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
        problem = runtime().problem() if device.is_device_array(x) else ""
        if problem:  # a framework says less of it: "initialization error"
            raise RuntimeError(f"{place}: {problem}") from error
        raise TypeError(f"{place}: cannot share the memory of {type(x).__name__}: {error}") from error
    if shared is None:
        place.fail(TypeError, _instead_of(x), "None" if x is None else type(x).__name__)
    return shared


def _instead_of(x: Any) -> str:
    """What to hand over instead of an object: an array, or those that it has."""
    if hasattr(x, "parameters"):
        return "model.parameters() or another sequence of arrays"
    if any(hasattr(value, "dtype") for value in getattr(x, "__dict__", {}).values()):
        return "an array or a container of arrays, as the mapping vars(x)"
    return "an array"


def _shared(x: Any) -> Array | None:
    """A view of x by the protocol that it offers; None if it offers none."""
    if framework_of(x) == "torch" and hasattr(x, "data_ptr"):
        array = _torch_header(x.detach())
        if x.numel() and not x.data_ptr():
            raise ValueError("it has no memory of its own")
        if _reach(array) > x.untyped_storage().nbytes() - x.storage_offset() * array.itemsize:
            raise ValueError("its storage was freed or is too small")
        return array
    if framework_of(x) in ("jax", "jaxlib") and str(x.dtype) in memory.NARROW:
        return np.asarray(x)  # a view: the other protocols have no bfloat16
    if _has_buffer(x):
        return np.asarray(memoryview(x))
    if hasattr(x, "__dlpack__"):
        return np.from_dlpack(x)
    return None


def _torch_header(tensor: Any) -> Array:
    """The memory of a tensor as a NumPy array."""
    storage = STORAGE.get(str(tensor.dtype).removeprefix("torch."))
    if storage is None or storage.dtype == storage.bits:
        return tensor.numpy()  # type: ignore[no-any-return]
    bits: Array = tensor.view(getattr(sys.modules["torch"], f"int{8 * storage.dtype.itemsize}")).numpy()
    return bits.view(storage.dtype)


def _reach(array: Array) -> int:
    """Bytes from the first element to the end of the last one."""
    return (
        sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)) + array.itemsize if array.size else 0
    )


def _has_buffer(x: object) -> bool:
    try:
        memoryview(x)  # type: ignore[arg-type]
    except TypeError:
        return False
    return not isinstance(x, (bytes, bytearray))


def check_float(array: Array, place: Place) -> None:
    """float32 or float64 in native byte order."""
    if array.dtype not in DTYPES:
        place.fail(TypeError, "float32 or float64", memory.type_name(array.dtype))


def acceptable(leaves: Sequence[Any]) -> list[bool]:
    """Which of these `parameter` takes as they are, known at a glance; at the others it is to look."""
    rows = memory.glance(leaves)
    fine: list[bool] = (rows["direct"] & rows["writable"] & (rows["dtype"] < len(DTYPES))).tolist()
    return fine


def parameter(x: Any, place: Place) -> Array:
    """x as an array that can be updated in place."""
    if isinstance(x, (int, float, np.generic)):
        place.fail(TypeError, "an array (of one number: np.zeros(()))", type(x).__name__)
    array = as_array(x, place)
    check_float(array, place)
    if not array.flags.writeable:
        place.fail(ValueError, "a writable array", "a read-only one")
    check_distinct(array, place)
    return array


def check_shape(array: Array, shape: tuple[int, ...], dtype: np.dtype[Any], place: Place) -> None:
    """Raises if an array is not of this shape and dtype."""
    if array.dtype != dtype:
        place.fail(TypeError, dtype.name, array.dtype.name)
    if array.shape != shape:
        place.fail(ValueError, f"shape {shape}", f"shape {array.shape}")


def like(x: Any, param: Array, place: Place) -> Array:
    """x as an array of the parameter's dtype and shape."""
    array = as_array(x, place)
    _check_memory(array, param, place)
    _check_dtype(array, param, place)
    if array.shape != param.shape:
        place.fail(ValueError, f"shape {param.shape}", f"shape {array.shape}")
    return array


def check_gradient(array: Array, param: Array, place: Place, *, samples: bool) -> None:
    """A gradient has the parameter's shape, after one leading axis if it holds `samples`, and its dtype or, where steps
    compute in float32, a narrow one.

    Its elements may be one and the same (a broadcast array): whoever writes them checks that (`check_distinct`).
    """
    _check_storage(array, param, place)
    shape = array.shape[1:] if samples else array.shape
    if shape != param.shape or (samples and (array.ndim == 0 or len(array) == 0)):
        expected = f"shape ({'samples, ' + ', '.join(map(str, param.shape))})" if samples else f"shape {param.shape}"
        place.fail(ValueError, expected, f"shape {array.shape}")


def check_rows(array: Array, param: Array, place: Place) -> None:
    """Some rows of a gradient, slices along the first axis, are as those of the parameter, and of such a dtype."""
    _check_storage(array, param, place)
    if array.ndim == 0 or array.shape[1:] != param.shape[1:]:
        expected = f"shape ({', '.join(map(str, ('rows', *param.shape[1:])))})"
        place.fail(ValueError, expected, f"shape {array.shape}")


def _check_storage(array: Array, param: Array, place: Place) -> None:
    _check_memory(array, param, place)
    if not (memory.type_name(array.dtype) in memory.NARROW and param.dtype == np.float32):
        _check_dtype(array, param, place)


def _check_memory(array: Array, param: Array, place: Place) -> None:
    if device.device_of(array) != device.device_of(param):
        expected, received = (device.location(device.device_of(a)) for a in (param, array))
        place.fail(TypeError, f"an array in {expected}", f"one in {received}")


def _check_dtype(array: Array, param: Array, place: Place) -> None:
    if array.dtype != param.dtype:
        place.fail(TypeError, param.dtype.name, memory.type_name(array.dtype))
