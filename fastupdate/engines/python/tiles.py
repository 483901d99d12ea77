"""What happens to a tile of elements, beside its sums: csrc/cpu/tile.h, csrc/cpu/rows.h and csrc/core/views.h.

A tile is a block on a CPU, and one element on a device, whose threads take the elements of a block in turn (sums.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

from fastupdate.arrays import memory
from fastupdate.engines import records
from fastupdate.engines.python.codecs import from_bfloat16, from_float16, to_bfloat16, to_float16
from fastupdate.engines.python.compiling import compiled, inlined
from fastupdate.stages import PLACES, at

SHADOW, STAGES = records.SHADOW, records.ZERO_GRADS - 1
GRADIENT, BEFORE, CHANGE, AFTER, COPY = range(len(PLACES))
GRADIENTS = at("gradient")
FLOAT16, BFLOAT16 = memory.STORAGE["float16"].code, memory.STORAGE["bfloat16"].code
LAYOUT_WORDS, ROWS_WORDS = 1 + 2 * records.MAX_DIMS, records.ROWS.itemsize // 8
LENGTH, COUNT, LAZY, AT, STARTS, POSITIONS = range(ROWS_WORDS)
SMALLEST = 2.0**-126  # float32 that has all its digits

# The records as kernels read them. Addresses are signed: an unsigned one plus a signed index would become a float. In
# numba-cuda's simulator `t.dtype` would be the record's own.
GROUP = np.dtype(records.GROUP.descr, align=True)
TENSOR = np.dtype(
    [
        ("kind" if name == "dtype" else name, "i8" if field.base == "u8" else field.base, field.shape)
        for name, (field, *_) in (records.TENSOR.fields or {}).items()
    ],
    align=True,
)


# -- memory -----------------------------------------------------------------------------------------------------------


@intrinsic
def _pointer(_typing: Any, _address: Any) -> Any:
    """An address as a pointer."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@inlined
def view(address, n, dtype):
    """n elements from an address on."""
    return carray(_pointer(np.int64(address)), n, dtype)


@inlined
def load_anywhere(address, dtype):
    """The value at any address; a device has to do so byte by byte."""
    return view(address, 1, dtype)[0]


@inlined
def store_anywhere(address, x, dtype):
    view(address, 1, dtype)[0] = x


@inlined
def cast(x, like):
    """A float64 rounded once to the type of `like`."""
    return like.dtype.type(x)


@compiled
def place_of(base, layout, i):
    """The address of element i, in C order, of an array whose layout is [ndim, shape…, stride…] (csrc/core/plan.h)."""
    record = view(layout, LAYOUT_WORDS, np.int64)
    for d in range(record[0] - 1, -1, -1):
        n = record[1 + d]
        base += (i % n) * record[1 + records.MAX_DIMS + d]
        i //= n
    return base


@inlined
def some(base, i, n, dtype):
    """n elements of a contiguous array, from the i-th on; an index, which might be negative, would take longer."""
    return view(base + i * view(base, 0, dtype).itemsize, n, dtype)


@compiled
def element(base, layout, i, dtype):
    """Element i; that of an array with a layout may be misaligned."""
    if layout:
        return load_anywhere(place_of(base, layout, i), dtype)
    return some(base, i, 1, dtype)[0]


@compiled
def put(base, layout, i, x, dtype):
    """Element i ← x."""
    if layout:
        store_anywhere(place_of(base, layout, i), x, dtype)
    else:
        some(base, i, 1, dtype)[0] = x


@inlined
def copy_tile(values, out):
    """out ← values, as long; Numba would take a second to compile what `out[:] = values` says of other lengths."""
    for i in range(len(out)):
        out[i] = values[i]


@compiled
def read_tile(base, layout, begin, out):
    """out ← elements begin, begin + 1, … of an array of its type."""
    if not layout:
        copy_tile(some(base, begin, len(out), out.dtype), out)
        return
    for k in range(len(out)):
        out[k] = element(base, layout, begin + k, out.dtype)


@compiled
def write_tile(base, layout, begin, values):
    """Elements begin, begin + 1, … of an array of their type ← values."""
    if not layout:
        copy_tile(values, some(base, begin, len(values), values.dtype))
        return
    for k in range(len(values)):
        put(base, layout, begin + k, values[k], values.dtype)


@compiled
def load_tile(storage, base, layout, begin, more, out):
    """out ← elements begin, begin + 1, … of an array of any storage type; more: out + those."""
    if storage not in (FLOAT16, BFLOAT16) and not more:
        read_tile(base, layout, begin, out)
        return
    for k in range(len(out)):
        if storage == FLOAT16:
            x = cast(from_float16(element(base, layout, begin + k, np.uint16)), out)
        elif storage == BFLOAT16:
            x = cast(from_bfloat16(element(base, layout, begin + k, np.uint16)), out)
        else:
            x = element(base, layout, begin + k, out.dtype)
        out[k] = out[k] + x if more else x


@inlined
def state_tile(address, begin, p):
    """The part of a state that belongs to the tile p; empty if there is no such state."""
    return view(address, begin + len(p) if address else 0, p.dtype)[begin:]


# -- gradients: one array, several, or few rows -----------------------------------------------------------------------


@inlined
def rows_of(t):
    """The record of the rows that a gradient touches: LENGTH, COUNT …"""
    return view(t.touched, ROWS_WORDS, np.int64)


@inlined
def is_lazy(t):
    """Whether it counts touched rows alone, one after the other: what belongs to others rests."""
    return t.touched and rows_of(t)[LAZY]


@compiled
def place_in(t, i):
    """Which element of the tensor is the i-th of those that count."""
    if not is_lazy(t):
        return i
    rows = rows_of(t)
    return view(rows[AT], rows[COUNT], np.int64)[i // rows[LENGTH]] * rows[LENGTH] + i % rows[LENGTH]


@compiled
def stretch(t, i, end, most):
    """How many elements a tile has that begins at i: as many as there is room for, and those of one touched row."""
    n = min(end - i, most)
    if is_lazy(t):
        n = min(n, rows_of(t)[LENGTH] - i % rows_of(t)[LENGTH])
    return n


@compiled
def sum_row(t, k, column, out):
    """out ← what touches the k-th of these rows, summed in order, from a column on."""
    rows = rows_of(t)
    starts = view(rows[STARTS], rows[COUNT] + 1, np.int64)
    positions = view(rows[POSITIONS], starts[k + 1], np.int64)
    for s in range(starts[k], starts[k + 1]):
        load_tile(t.g_dtype, t.g, 0, positions[s] * rows[LENGTH] + column, s > starts[k], out)


@compiled
def load_rows(t, begin, out):
    """out ← the gradient of a tile: of the touched rows, one after the other, if those alone are counted; else of the
    tensor, where rows that are not touched have zeros."""
    rows, end = rows_of(t), begin + len(out)
    length, at = rows[LENGTH], view(rows[AT], rows[COUNT], np.int64)
    out[:] = 0
    k = begin // length if rows[LAZY] else np.searchsorted(at, begin // length)
    while k < len(at):
        row = (k if rows[LAZY] else at[k]) * length
        if row >= end:
            break
        first, stop = max(row, begin), min(row + length, end)
        sum_row(t, k, first - row, out[first - begin : stop - begin])
        k += 1


@compiled
def gradient_tile(t, begin, out):
    """out ← the raw gradient of a tile: one array, or the sum of several in order, or of few rows."""
    if t.touched:
        load_rows(t, begin, out)
        return
    for s in range(t.samples):
        load_tile(t.g_dtype, t.g + s * t.sample_stride, t.g_layout, begin, s > 0, out)


@compiled
def clear_gradient(t, begin, n, like):
    for s in range(t.samples):
        for i in range(begin, begin + n):
            if t.g_dtype == t.kind:
                put(t.g + s * t.sample_stride, t.g_layout, i, cast(0.0, like), like.dtype)
            else:
                put(t.g + s * t.sample_stride, t.g_layout, i, np.uint16(0), np.uint16)


# -- around the rule --------------------------------------------------------------------------------------------------


@inlined
def factors_of(factor, like):
    """What gradients are multiplied by, one after the other (csrc/core/scalar.h, Factor)."""
    if like.itemsize == 4 and abs(factor) < SMALLEST:
        return cast(SMALLEST, like), cast(factor / SMALLEST, like)
    return cast(factor, like), cast(1.0, like)


@compiled
def scale_tile(g, scale, unit_scale, unit_length, begin, out):
    """out ← scale·g, times the factor of each element's unit where units are clipped."""
    first, second = factors_of(scale, out)
    for i in range(len(g)):
        if unit_scale:
            first, second = factors_of(scale * element(unit_scale, 0, (begin + i) // unit_length, np.float64), out)
        out[i] = g[i] * first * second


@compiled
def condition_tile(run, t, group, scale, stages, keep, begin, raw, p, g):
    """g ← the gradient that the rule gets; p becomes what it is before the rule. run: the stages of a place."""
    scale_tile(raw, scale, t.unit_scale, t.unit_length, begin, g)
    if stages & STAGES:
        run(t, group, stages, GRADIENT, keep, begin, g, p, g)
        run(t, group, stages, BEFORE, keep, begin, g, p, p)


@compiled
def copy_out(t, begin, p):
    """The low-precision copy of a tile."""
    for i in range(len(p)):
        bits = to_float16(p[i]) if t.shadow_dtype == FLOAT16 else to_bfloat16(p[i])
        put(t.slot[SHADOW], 0, begin + i, np.uint16(bits), np.uint16)
