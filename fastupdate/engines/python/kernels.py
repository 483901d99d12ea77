"""csrc/core/sums.h and csrc/cpu/engine.h for Numba: the same arithmetic in the same order.

These functions know no rule and no stage, so Numba keeps their machine code on disk between processes. They share one
file because Numba looks only at the caller's file to see whether that code is out of date.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

from fastupdate.arrays import memory
from fastupdate.engines import records
from fastupdate.stages import PLACES, at

BLOCK, LANES = records.BLOCK, records.LANES
ACCUMULATOR, SHADOW = records.ACCUMULATOR, records.SHADOW
ZERO_GRADS, MONITOR, STAGES = records.ZERO_GRADS, records.MONITOR, records.ZERO_GRADS - 1
GRADIENT, BEFORE, CHANGE, AFTER, COPY = range(len(PLACES))
GRADIENTS = at("gradient")
FLOAT16, BFLOAT16 = memory.STORAGE["float16"].code, memory.STORAGE["bfloat16"].code
SMALLEST = 2.0**-126  # float32 that has all its digits
HALF, DOUBLE = np.empty(0, np.uint16), np.empty(0, np.float64)
exact = njit(nogil=True, error_model="numpy")
compiled = njit(nogil=True, error_model="numpy", cache=True)
inlined = njit(nogil=True, error_model="numpy", inline="always")


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


@compiled
def read_tile(base, layout, begin, out):
    """out ← elements begin, begin + 1, … in C order of an array of any strides (csrc/core/views.h), of out's type."""
    if layout:
        for k in range(len(out)):
            out[k] = view(_element(base, layout, begin + k), 1, out)[0]
    else:
        out[:] = view(base, begin + len(out), out)[begin:]


@compiled
def write_tile(base, layout, begin, values):
    """Elements begin, begin + 1, … of an array of the type of `values` ← values."""
    if layout:
        for k in range(len(values)):
            view(_element(base, layout, begin + k), 1, values)[0] = values[k]
    else:
        view(base, begin + len(values), values)[begin:] = values


@compiled
def _element(base, layout, i):
    """The address of element i; layout is [ndim, shape…, stride…] (csrc/core/plan.h)."""
    record = carray(_pointer(np.uint64(layout)), 1 + 2 * records.MAX_DIMS, np.int64)
    offset = 0
    for d in range(record[0] - 1, -1, -1):
        size = record[1 + d]
        offset += (i % size) * record[1 + records.MAX_DIMS + d]
        i //= size
    return np.uint64(np.int64(base) + offset)


@compiled
def decode_float16(bits, out):
    """Exact, by integers and normal numbers alone (csrc/core/storage.h)."""
    for i in range(len(out)):
        x = np.int64(bits[i])
        sign, a = x & 0x8000, x & 0x7FFF
        if a < 0x0400:
            size = np.float32(a) * np.float32(2.0**-24)
            out[i] = -size if sign else size
        else:
            magnitude = (a << 13) + ((112 if a < 0x7C00 else 224) << 23)
            out[i] = np.uint32(sign << 16 | magnitude).view(np.float32)


@compiled
def decode_bfloat16(bits, out):
    for i in range(len(out)):
        out[i] = np.uint32(np.int64(bits[i]) << 16).view(np.float32)


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
def sample_of(t, s):
    """The address of a gradient's sample."""
    return np.uint64(np.int64(t.g) + s * t.sample_stride)


@compiled
def gradient_tile(t, begin, out):
    """out ← the raw gradient of a tile: one array, or the sum of several in order."""
    load_tile(t.g_dtype, t.g, t.g_layout, begin, out)
    if t.samples > 1:
        sample = np.empty_like(out)
        for s in range(1, t.samples):
            load_tile(t.g_dtype, sample_of(t, s), t.g_layout, begin, sample)
            for k in range(len(out)):
                out[k] = out[k] + sample[k]


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


@inlined
def cast(x, like):
    """A float64 rounded once to the type of `like`."""
    return like.dtype.type(x)


@compiled
def add_tile(acc, g, scale, overwrite):
    for i in range(len(g)):
        acc[i] = g[i] * scale if overwrite else acc[i] + g[i] * scale


@compiled
def encode_bfloat16(p, out):
    for i in range(len(p)):
        u = np.float32(p[i]).view(np.uint32)
        quiet = (u >> np.uint32(16)) | np.uint32(0x40)
        rounded = (u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        out[i] = quiet if p[i] != p[i] else rounded


@compiled
def encode_float16(p, out):
    """Round to nearest even by integers alone (csrc/core/storage.h)."""
    for i in range(len(p)):
        u = np.int64(np.float32(p[i]).view(np.uint32))
        sign, a = (u >> 16) & 0x8000, u & 0x7FFFFFFF
        if a > 0x7F800000:
            magnitude = 0x7E00
        elif a >= 0x477FF000:
            magnitude = 0x7C00
        elif a < 0x38800000:
            shift = min(126 - (a >> 23), 31)
            significand = (a & 0x7FFFFF) | 0x800000
            half, kept, rest = (1 << shift) >> 1, significand >> shift, significand & ((1 << shift) - 1)
            magnitude = kept + (1 if rest > half or (rest == half and kept & 1) else 0)
        else:
            magnitude = (a - (112 << 23) + 0x0FFF + ((a >> 13) & 1)) >> 13
        out[i] = sign | magnitude


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


@inlined
def fold_lanes(lane):
    width = LANES // 2
    while width:
        for j in range(width):
            lane[j] += lane[j + width]
        width //= 2
    return lane[0]


@compiled
def sum_of_products(x, y):
    """Σ x·y over a block in float64: 32 lanes, folded pairwise."""
    lane = np.zeros(LANES)
    full = len(x) - len(x) % LANES
    for i in range(0, full, LANES):
        for j in range(LANES):
            lane[j] += np.float64(x[i + j]) * np.float64(y[i + j])
    for i in range(full, len(x)):
        lane[i - full] += np.float64(x[i]) * np.float64(y[i])
    return fold_lanes(lane)


@compiled
def sums_of_differences(x, y, g):
    """Σ (x − y)² and Σ g·(x − y) over a block, the differences in the arrays' type, their products in float64."""
    squares, products = np.zeros(LANES), np.zeros(LANES)
    for i in range(len(x)):
        u = np.float64(x[i] - y[i])
        squares[i % LANES] += u * u
        products[i % LANES] += np.float64(g[i]) * u
    return fold_lanes(squares), fold_lanes(products)


@inlined
def maximum(a, b):
    """The larger of two numbers; NaN if either is NaN."""
    return a if a >= b or a != a else b


@compiled
def largest_difference(x, y):
    """max |x − y|, in the arrays' type; NaN if any is NaN."""
    largest = 0.0
    for i in range(len(x)):
        largest = maximum(largest, np.float64(abs(x[i] - y[i])))
    return largest


@compiled
def count_gradient(g):
    """How many elements are not finite, and how many are zero."""
    nonfinite = zeros = 0
    for i in range(len(g)):
        nonfinite += 0 if g[i] - g[i] == 0 else 1
        zeros += 1 if g[i] == 0 else 0
    return nonfinite, zeros


@inlined
def push(level, count, x):
    """Adds x to a pairwise sum held as partial sums by level (csrc/core/sums.h)."""
    depth, k = 0, count
    while k & 1:
        x = level[depth] + x
        depth += 1
        k >>= 1
    level[depth] = x


@inlined
def total(level, count):
    result, found, depth = 0.0, False, 0
    while count >> depth:
        if (count >> depth) & 1:
            result = level[depth] + result if found else level[depth]
            found = True
        depth += 1
    return result


@compiled
def fold_column(column):
    """A pairwise sum over blocks."""
    level = np.zeros(64)
    for k in range(len(column)):
        push(level, k, column[k])
    return total(level, len(column))


@compiled
def unit_norms_span(t, first, last, scale, like):
    """Norms of gradient and weight, both times scale, of units first … last − 1; a unit sums in blocks of its own."""
    g, p = np.empty(BLOCK, like.dtype), np.empty(BLOCK, like.dtype)
    out = view(t.unit_norms, 2 * last, np.empty(0, np.float64))
    for unit in range(first, last):
        gg, pp, count = np.zeros(64), np.zeros(64), 0
        end = (unit + 1) * t.unit_length
        for i in range(unit * t.unit_length, end, BLOCK):
            n = min(BLOCK, end - i)
            gradient_tile(t, i, g[:n])
            read_tile(t.p, t.p_layout, i, p[:n])
            scale_tile(g[:n], scale, 0, 1, 0, g[:n])
            scale_tile(p[:n], scale, 0, 1, 0, p[:n])
            push(gg, count, sum_of_products(g[:n], g[:n]))
            push(pp, count, sum_of_products(p[:n], p[:n]))
            count += 1
        out[2 * unit] = np.sqrt(total(gg, count))
        out[2 * unit + 1] = np.sqrt(total(pp, count))


@inlined
def first_tensor(tensors, first):
    """The first tensor that ends after block `first`."""
    low, high = 0, len(tensors)
    while low < high:
        middle = (low + high) // 2
        if tensors[middle].first_block + (tensors[middle].n + BLOCK - 1) // BLOCK > first:
            high = middle
        else:
            low = middle + 1
    return low


@inlined
def span(t, first, last):
    """The elements of a tensor that lie in blocks first … last − 1."""
    return max(first - t.first_block, 0) * BLOCK, min((last - t.first_block) * BLOCK, t.n)


@inlined
def of_type(t, like):
    """Whether the tensor has the type of `like`; each type has machine code of its own."""
    return (t.dtype == 0) == (like.itemsize == 4)


@compiled
def clear_gradient(t, begin, n, like):
    for s in range(t.samples):
        if t.g_dtype == t.dtype:
            write_tile(sample_of(t, s), t.g_layout, begin, np.zeros(n, like.dtype))
        else:
            write_tile(sample_of(t, s), t.g_layout, begin, np.zeros(n, np.uint16))


@compiled
def copy_out(t, begin, p):
    """The low-precision copy of a tile."""
    shadow = view(t.slot[SHADOW], begin + len(p), HALF)[begin:]
    if t.shadow_dtype == FLOAT16:
        encode_float16(p, shadow)
    else:
        encode_bfloat16(p, shadow)


@compiled
def sum_gradient(g, sums):
    sums.gg = sum_of_products(g, g)
    sums.nonfinite, sums.zeros = count_gradient(g)


@compiled
def sum_momentum(t, raw, begin, sums):
    """Gradient against the momentum of the steps before; with this gradient in it, it would agree with any gradient."""
    sums.gm = sums.mm = 0.0
    if t.momentum >= 0:
        m = view(t.slot[t.momentum], begin + len(raw), raw)[begin:]
        sums.gm = sum_of_products(raw, m)
        sums.mm = sum_of_products(m, m)


@compiled
def sum_update(raw, before, p, stalled, sums):
    sum_gradient(raw, sums)
    sums.pp = sum_of_products(p, p)
    sums.uu, sums.gu = sums_of_differences(p, before, raw)
    sums.largest = largest_difference(p, before)
    sums.stalled = stalled


@compiled
def condition_tile(run, t, group, scale, stages, keep, begin, raw, p, g):
    """g ← the gradient that the rule gets; p becomes what it is before the rule. run: the stages of a place."""
    scale_tile(raw, scale, t.unit_scale, t.unit_length, begin, g)
    if stages & STAGES:
        run(t, group, stages, GRADIENT, keep, begin, g, p, g)
        run(t, group, stages, BEFORE, keep, begin, g, p, p)


@compiled
def update_tile(loop, run, t, group, scalars, scale, stages, sums, begin, n, like, scratch):
    raw, p, before, delta, g = scratch[0, :n], scratch[1, :n], scratch[2, :n], scratch[3, :n], scratch[4, :n]
    gradient_tile(t, begin, raw)
    read_tile(t.p, t.p_layout, begin, p)
    before[:] = p
    if stages & MONITOR:
        sum_momentum(t, raw, begin, sums[0])
    condition_tile(run, t, group, scale, stages, True, begin, raw, p, g)
    loop(t, scalars, cast(1.0, like), begin, g, p, delta)
    if stages & STAGES:
        run(t, group, stages, CHANGE, True, begin, g, p, delta)
    stalled = apply_tile(p, delta)
    if stages & STAGES:
        run(t, group, stages, AFTER, True, begin, g, p, p)
        run(t, group, stages, COPY, True, begin, g, p, p)
    if t.slot[SHADOW]:
        copy_out(t, begin, p)
    if stages & MONITOR:
        sum_update(raw, before, p, stalled, sums[0])
    write_tile(t.p, t.p_layout, begin, p)
    if stages & ZERO_GRADS:
        clear_gradient(t, begin, n, like)


@compiled
def update_span(apply, differ, run, t, group, scalars, scale, stages, sums, begin, end, like):
    direct = t.samples == 1 and t.g_dtype == t.dtype and not t.g_layout
    plain = direct and stages == 0 and not (t.p_layout or t.slot[SHADOW] or t.unit_scale or t.work)
    plain = plain and factors_of(scale, like)[1] == 1
    if plain:
        g, p = view(t.g, end, like)[begin:], view(t.p, end, like)[begin:]
        apply(t, scalars, cast(scale, like), begin, g, p, p)
        return
    scratch = np.empty((5, BLOCK), like.dtype)
    for i in range(begin, end, BLOCK):
        k = t.first_block + i // BLOCK if stages & MONITOR else 0
        n = min(BLOCK, end - i)
        update_tile(differ, run, t, group, scalars, scale, stages, sums[k : k + 1], i, n, like, scratch)


@compiled
def update(tensors, apply, differ, run, groups, scalars, scale, stages, sums, like, first, last):
    """Updates blocks first … last − 1; apply and differ are a rule's loops, p ← p + Δ and out ← Δ; run: stages."""
    i = first_tensor(tensors, first)
    while i < len(tensors) and tensors[i].first_block < last:
        t = tensors[i]
        if of_type(t, like):
            begin, end = span(t, first, last)
            row, factor = scalars[t.group], scale * t.scale
            update_span(apply, differ, run, t, groups[t.group], row, factor, stages, sums, begin, end, like)
        i += 1


@compiled
def gradient_sums(tensors, sums, scale, like, first, last):
    tile = np.empty(BLOCK, like.dtype)
    i = first_tensor(tensors, first)
    while i < len(tensors) and tensors[i].first_block < last:
        t = tensors[i]
        if of_type(t, like):
            begin, end = span(t, first, last)
            for at in range(begin, end, BLOCK):
                g = tile[: min(BLOCK, end - at)]
                gradient_tile(t, at, g)
                scale_tile(g, scale, 0, 1, 0, g)
                sum_gradient(g, sums[t.first_block + at // BLOCK])
        i += 1


@compiled
def accumulate(tensors, overwrite, clear, like, first, last):
    tile = np.empty(BLOCK, like.dtype)
    i = first_tensor(tensors, first)
    while i < len(tensors) and tensors[i].first_block < last:
        t = tensors[i]
        if of_type(t, like):
            begin, end = span(t, first, last)
            for at in range(begin, end, BLOCK):
                g = tile[: min(BLOCK, end - at)]
                gradient_tile(t, at, g)
                add_tile(view(t.slot[ACCUMULATOR], at + len(g), like)[at:], g, cast(t.scale, like), overwrite)
                if clear:
                    clear_gradient(t, at, len(g), like)
        i += 1


@compiled
def clear_gradients(tensors, like, first, last):
    i = first_tensor(tensors, first)
    while i < len(tensors) and tensors[i].first_block < last:
        t = tensors[i]
        if of_type(t, like):
            begin, end = span(t, first, last)
            clear_gradient(t, begin, end - begin, like)
        i += 1


@compiled
def unit_norms(tensors, scale, like, first, last):
    i = first_tensor(tensors, first)
    while i < len(tensors) and tensors[i].first_block < last:
        t = tensors[i]
        if of_type(t, like):
            begin, end = span(t, first, last)
            length = t.unit_length
            unit_norms_span(t, (begin + length - 1) // length, (end + length - 1) // length, scale, like)
        i += 1


@compiled
def fold(tensors, sums, totals):
    """Sums of blocks → sums of tensors, pairwise in order."""
    for i in range(len(tensors)):
        begin = tensors[i].first_block
        block = sums[begin : begin + (tensors[i].n + BLOCK - 1) // BLOCK]
        totals[i].gg = fold_column(block.gg)
        totals[i].pp = fold_column(block.pp)
        totals[i].uu = fold_column(block.uu)
        totals[i].gm = fold_column(block.gm)
        totals[i].mm = fold_column(block.mm)
        totals[i].gu = fold_column(block.gu)
        totals[i].largest = 0.0
        totals[i].nonfinite = totals[i].zeros = totals[i].stalled = 0
        for b in block:
            totals[i].largest = maximum(totals[i].largest, b.largest)
            totals[i].nonfinite += b.nonfinite
            totals[i].zeros += b.zeros
            totals[i].stalled += b.stalled
