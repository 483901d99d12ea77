"""What happens to a tile of elements for Numba, beside its sums: csrc/cpu/tile.h and csrc/core/views.h."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

from fastupdate.arrays import memory
from fastupdate.engines import records
from fastupdate.engines.python import codecs
from fastupdate.engines.python.compiling import compiled, exact, inlined
from fastupdate.stages import PLACES, at

SHADOW, STAGES = records.SHADOW, records.ZERO_GRADS - 1
GRADIENT, BEFORE, CHANGE, AFTER, COPY = range(len(PLACES))
GRADIENTS = at("gradient")
FLOAT16, BFLOAT16 = memory.STORAGE["float16"].code, memory.STORAGE["bfloat16"].code
LAYOUT_WORDS = 1 + 2 * records.MAX_DIMS
SMALLEST = 2.0**-126  # float32 that has all its digits
HALF, DOUBLE = np.empty(0, np.uint16), np.empty(0, np.float64)

from_float16, from_bfloat16, to_float16, to_bfloat16 = codecs.compiled_codecs(
    exact, exact(codecs.float_bits), exact(codecs.bits_float)
)


@intrinsic
def _pointer(_typing: Any, _address: Any) -> Any:
    """An address as a pointer."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), generate


@inlined
def view(address, n, like):
    """n elements of the type of `like` from an address on."""
    return carray(_pointer(np.uint64(address)), n, like.dtype)


@inlined
def offset_of(layout, i):
    """Bytes from the first element to element i; layout is [ndim, shape…, stride…] (csrc/core/plan.h)."""
    offset = 0
    for d in range(layout[0] - 1, -1, -1):
        size = layout[1 + d]
        offset += (i % size) * layout[1 + records.MAX_DIMS + d]
        i //= size
    return offset


@compiled
def _element(base, layout, i):
    """The address of element i of an array of any strides."""
    record = carray(_pointer(np.uint64(layout)), LAYOUT_WORDS, np.int64)
    return np.uint64(np.int64(base) + offset_of(record, i))


@inlined
def copy_tile(values, out):
    """out ← values, as long; Numba would take a second to compile what `out[:] = values` says of other lengths."""
    for i in range(len(out)):
        out[i] = values[i]


@compiled
def read_tile(base, layout, begin, out):
    """out ← elements begin, begin + 1, … in C order of an array of any strides (csrc/core/views.h), of out's type."""
    if layout:
        for k in range(len(out)):
            out[k] = view(_element(base, layout, begin + k), 1, out)[0]
    else:
        copy_tile(view(base, begin + len(out), out)[begin:], out)


@compiled
def write_tile(base, layout, begin, values):
    """Elements begin, begin + 1, … of an array of the type of `values` ← values."""
    if layout:
        for k in range(len(values)):
            view(_element(base, layout, begin + k), 1, values)[0] = values[k]
    else:
        copy_tile(values, view(base, begin + len(values), values)[begin:])


@compiled
def decode_float16(bits, out):
    for i in range(len(out)):
        out[i] = from_float16(bits[i])


@compiled
def decode_bfloat16(bits, out):
    for i in range(len(out)):
        out[i] = from_bfloat16(bits[i])


@compiled
def load_tile(storage, base, layout, begin, out):
    """out ← elements begin, begin + 1, … of an array of any storage type."""
    bits = np.empty(len(out), np.uint16)
    if storage == FLOAT16:
        read_tile(base, layout, begin, bits)
        decode_float16(bits, out)
    elif storage == BFLOAT16:
        read_tile(base, layout, begin, bits)
        decode_bfloat16(bits, out)
    else:
        read_tile(base, layout, begin, out)


@inlined
def cast(x, like):
    """A float64 rounded once to the type of `like`."""
    return like.dtype.type(x)


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
    factors = view(unit_scale, (begin + len(g)) // unit_length + 1 if unit_scale else 0, DOUBLE)
    for i in range(len(g)):
        if unit_scale:
            first, second = factors_of(scale * factors[(begin + i) // unit_length], out)
        out[i] = g[i] * first * second


@compiled
def condition_tile(run, t, group, scale, stages, keep, begin, raw, p, g):
    """g ← the gradient that the rule gets; p becomes what it is before the rule. run: the stages of a place."""
    scale_tile(raw, scale, t.unit_scale, t.unit_length, begin, g)
    if stages & STAGES:
        run(t, group, stages, GRADIENT, keep, begin, g, p, g)
        run(t, group, stages, BEFORE, keep, begin, g, p, p)


@compiled
def add_tile(acc, g, scale, overwrite):
    for i in range(len(g)):
        acc[i] = g[i] * scale if overwrite else acc[i] + g[i] * scale


@compiled
def apply_tile(p, delta):
    """p ← p + delta; how many elements a non-zero delta left where they were."""
    stalled = 0
    for i in range(len(p)):
        moved = p[i] + delta[i]
        stalled += 1 if moved == p[i] and delta[i] != 0 else 0
        p[i] = moved
    return stalled


@inlined
def state_tile(address, begin, p):
    """The part of a state that belongs to the tile p; empty if there is no such state."""
    return view(address, begin + len(p) if address else 0, p)[begin:]


@compiled
def encode_bfloat16(p, out):
    for i in range(len(p)):
        out[i] = to_bfloat16(p[i])


@compiled
def encode_float16(p, out):
    for i in range(len(p)):
        out[i] = to_float16(p[i])


@compiled
def copy_out(t, begin, p):
    """The low-precision copy of a tile."""
    shadow = view(t.slot[SHADOW], begin + len(p), HALF)[begin:]
    if t.shadow_dtype == FLOAT16:
        encode_float16(p, shadow)
    else:
        encode_bfloat16(p, shadow)
