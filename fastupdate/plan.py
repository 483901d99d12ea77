"""The records that csrc/plan.h defines, as NumPy dtypes: Python fills them in, every engine reads them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK = 1024
LANES = 32
MAX_STATES = 4
MAX_HYPERS = 16
MAX_DIMS = 64
MOST_UNDECIDED = 7  # steps under way on a device of which it is not known whether they were skipped (sweep_cuda.h)

DTYPES = {np.dtype(np.float32): 0, np.dtype(np.float64): 1}
SHADOW_DTYPES = {"float16": 2, "bfloat16": 3}

TENSOR = np.dtype(
    [
        ("p", "u8"), ("g", "u8"), ("p_layout", "u8"), ("g_layout", "u8"), ("n", "i8"), ("samples", "i8"),
        ("scale", "f8"), ("group", "i4"), ("momentum", "i1"), ("dtype", "u1"), ("shadow_dtype", "u1"), ("pad", "u1"),
        ("state", "u8", MAX_STATES), ("first_block", "i8"), ("sample_stride", "i8"), ("acc", "u8"), ("slow", "u8"),
        ("ema", "u8"), ("shadow", "u8"), ("unit_norms", "u8"), ("unit_scale", "u8"), ("unit_length", "i8"),
    ]
)  # fmt: skip
GROUP = np.dtype(
    [
        ("hyper", "f8", MAX_HYPERS), ("clip_value", "f8"), ("l2", "f8"), ("l1", "f8"), ("decay", "f8"),
        ("shrink", "f8"), ("ema", "f8"), ("lookahead", "f8"), ("t", "i8"),
    ]
)  # fmt: skip
SUMS = np.dtype(
    [
        ("gg", "f8"), ("pp", "f8"), ("uu", "f8"), ("gm", "f8"), ("mm", "f8"), ("largest", "f8"),
        ("nonfinite", "i8"), ("zeros", "i8"), ("stalled", "i8"),
    ]
)  # fmt: skip
LAYOUT = np.dtype([("ndim", "i8"), ("shape", "i8", MAX_DIMS), ("stride", "i8", MAX_DIMS)])

CLIP_VALUE, PENALTY, DECAY, SHRINK, LOOKAHEAD, EMA, ZERO_GRADS, MONITOR = (1 << k for k in range(8))

Records = NDArray[np.void]
Array = NDArray[Any]


class Engine(Protocol):
    """What every backend's plan offers. Its clock is [steps taken, micro-batches accumulated].

    adopt           points the tensors from `start` on at these gradients; the first that needs a closer look, or −1
    moves           how many times it has pointed any of them elsewhere
    step            adopt and update at once: the number of steps taken, or 0 if a tensor needs a closer look
    update          one step from the gradients that the records point at
    gradient_sums   Σg² and non-finite counts of each block
    unit_norms      norms of gradient and weight of each unit
    accumulate      adds the gradients to the accumulators
    fold            sums of blocks → sums of tensors
    overall         sums of tensors → Σ scale²·Σg² over all of them, and how many gradients are not finite
    """

    @property
    def moves(self) -> int: ...
    def adopt(self, params: list[Array], grads: list[Any], start: int, writable: bool) -> int: ...
    def step(self, params: list[Array], grads: list[Any], scale: float, stages: int) -> int: ...
    def update(self, scale: float, stages: int) -> None: ...
    def gradient_sums(self) -> None: ...
    def unit_norms(self) -> None: ...
    def accumulate(self, stages: int) -> None: ...
    def fold(self, totals: Records) -> None: ...
    def overall(self, totals: Records) -> tuple[float, int]: ...


def address(array: Array) -> int:
    """Where the first element is."""
    return int(array.__array_interface__["data"][0])


def is_direct(array: Array) -> bool:
    """Whether an engine can walk the array as it lies in memory."""
    return array.flags.c_contiguous and array.flags.aligned


def layout_of(array: Array) -> Records:
    """The layout record of a strided or misaligned array; axes that are contiguous with each other become one."""
    shape: list[int] = []
    strides: list[int] = []
    for size, stride in zip(array.shape, array.strides, strict=True):
        if size == 1:
            continue
        if shape and strides[-1] == size * stride:
            shape[-1] *= size
            strides[-1] = stride
        else:
            shape.append(size)
            strides.append(stride)
    record = np.zeros(1, LAYOUT)
    record["ndim"] = max(len(shape), 1)
    record["shape"][0, : len(shape) or 1] = shape or [1]
    record["stride"][0, : len(shape) or 1] = strides or [array.itemsize]
    return record


def first_blocks(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many blocks lie before each tensor."""
    blocks = -(-sizes // BLOCK)
    return np.cumsum(blocks) - blocks
