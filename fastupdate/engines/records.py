"""The records that csrc/core/plan.h defines, as NumPy dtypes: Python fills them in, every engine reads them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastupdate import stages
from fastupdate.arrays.memory import DTYPES, Array

BLOCK = 1024
TILE = 128  # elements that the native engine works on together (csrc/cpu/tile.h)
LANES = 32
ROW_CHUNK = 32  # rows whose columns are added up together (csrc/core/extents.h)
MAX_STATES = 10
ROLES = ("accumulator", "shadow", *stages.ARRAYS)  # the slots after the states
SLOTS = MAX_STATES + len(ROLES)
ACCUMULATOR, SHADOW = MAX_STATES, MAX_STATES + 1
MAX_HYPERS = 16
MAX_SCALARS = 16  # in float64
MAX_SUMS = 4  # of one phase (csrc/core/extents.h)
MAX_DIMS = 64
MOST_UNDECIDED = 7  # steps under way on a device of which it is not known whether they were skipped (csrc/cuda/sweep.h)

TENSOR = np.dtype(
    [
        ("p", "u8"), ("g", "u8"), ("p_layout", "u8"), ("g_layout", "u8"), ("n", "i8"), ("samples", "i8"),
        ("scale", "f8"), ("group", "i4"), ("momentum", "i1"), ("dtype", "u1"), ("shadow_dtype", "u1"),
        ("g_dtype", "u1"), ("first_block", "i8"), ("touched", "u8"), ("unit_scale", "u8"), ("slot", "u8", SLOTS),
        ("sample_stride", "i8"), ("unit_norms", "u8"), ("unit_length", "i8"), ("order", "u8"), ("g_order", "u8"),
        ("rows", "i8"), ("columns", "i8"), ("work", "u8"),
    ]
)  # fmt: skip
GROUP = np.dtype(
    [
        ("hyper", "f8", MAX_HYPERS), *((number, "f8") for number in stages.NUMBERS), ("t", "i8"), ("given", "i8"),
    ]
)  # fmt: skip
SUMS = np.dtype(
    [
        ("gg", "f8"), ("pp", "f8"), ("uu", "f8"), ("gm", "f8"), ("mm", "f8"), ("gu", "f8"),
        ("largest", "f8"),
        ("nonfinite", "i8"), ("zeros", "i8"), ("stalled", "i8"),
    ]
)  # fmt: skip
RECIPE = np.dtype(
    [
        ("next_thaw", "i8"), ("lookahead_every", "i8"), ("lookahead_weight", "f8"), ("largest", "f8"),
        ("vanishing", "f8"), ("hypers", "i4"), ("lr", "i4"), ("weight_decay", "i4"), ("always", "u4"),
        ("eps", "u4"), ("flags", "u4"), ("outside", "u4"), ("before", "u4"), ("rows", "u4"),
    ],
    align=True,
)  # fmt: skip
SCHEDULE = np.dtype([("first", "i8"), ("count", "i8"), ("values", "u8")])
LINK = np.dtype([("row", "i8"), ("column", "i8"), ("schedule", "i8")])
ROWS = np.dtype(
    [("length", "i8"), ("count", "i8"), ("lazy", "i8"), ("at", "u8"), ("starts", "u8"), ("positions", "u8")]
)
LAYOUT = np.dtype([("ndim", "i8"), ("shape", "i8", MAX_DIMS), ("stride", "i8", MAX_DIMS)])

NO_ROWS, DENSE_ROWS, LAZY_ROWS = range(3)  # what becomes of gradients of few rows (csrc/core/derive.h)
ZERO_GRADS, MONITOR = stages.FIRST_OTHER, 2 * stages.FIRST_OTHER  # beside the stages

Records = NDArray[np.void]

STEPS, MICRO_BATCHES, REVISION = range(3)  # the entries of the clock


class Tables(NamedTuple):
    """The records of a plan, which Python fills in and an engine reads.

    tensors, groups  TENSOR, GROUP: a row for each
    recipe           RECIPE: one row
    clock            steps taken, micro-batches accumulated since, revision of what the user set
    sums             SUMS: a row for each block, or none if nothing is summed
    """

    tensors: Records
    groups: Records
    recipe: Records
    clock: NDArray[np.int64]
    sums: Records

    @property
    def dtypes(self) -> list[np.dtype[Any]]:
        """The compute types that occur."""
        return [dtype for dtype, code in DTYPES.items() if (self.tensors["dtype"] == code).any()]


class Given(NamedTuple):
    """What the user set, as engines read it (csrc/core/derive.h).

    values     a row for each of his groups: the rule's hyperparameters, then what all rules share
    schedules  SCHEDULE: which steps each row of `tables` is of
    links      LINK: which of the values are scheduled
    tables     a row for each schedule
    revision   the entry of the clock that these arrays belong to
    """

    values: NDArray[np.float64]
    schedules: Records
    links: Records
    tables: NDArray[np.float64]
    revision: int


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
    return counted_before(-(-sizes // BLOCK))


def counted_before(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many lie before each, of things that lie in a row."""
    return np.add.accumulate(counts) - counts  # np.cumsum of NumPy 2.0.0 dies where no memory is left
