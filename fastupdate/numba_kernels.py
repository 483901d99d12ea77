"""The stages of csrc/stages.h, reduce.h and engine_cpu.h for Numba: the same arithmetic in the same order.

These functions know no rule, so Numba keeps their machine code on disk between processes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

from fastupdate import plan

BLOCK, LANES = plan.BLOCK, plan.LANES
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
def read_strided(out, base, layout, begin):
    """out ← elements begin, begin + 1, … in C order of an array of any strides (csrc/strided.h)."""
    for k in range(len(out)):
        out[k] = view(_element(base, layout, begin + k), 1, out)[0]


@compiled
def write_strided(base, layout, begin, values):
    """Elements begin, begin + 1, … of an array of any strides ← values."""
    for k in range(len(values)):
        view(_element(base, layout, begin + k), 1, values)[0] = values[k]


@compiled
def _element(base, layout, i):
    """The address of element i; layout is [ndim, shape…, stride…] (csrc/plan.h)."""
    record = carray(_pointer(np.uint64(layout)), 1 + 2 * plan.MAX_DIMS, np.int64)
    offset = 0
    for d in range(record[0] - 1, -1, -1):
        size = record[1 + d]
        offset += (i % size) * record[1 + plan.MAX_DIMS + d]
        i //= size
    return np.uint64(np.int64(base) + offset)


@compiled
def gradient_tile(g, layout, samples, stride, begin, out):
    """out ← the raw gradient of a tile: one array, or the sum of several in order."""
    for s in range(samples):
        base = np.uint64(np.int64(g) + s * stride)
        if layout:
            for k in range(len(out)):
                x = view(_element(base, layout, begin + k), 1, out)[0]
                out[k] = x if s == 0 else out[k] + x
        else:
            source = view(base, begin + len(out), out)
            for k in range(len(out)):
                x = source[begin + k]
                out[k] = x if s == 0 else out[k] + x


@compiled
def scale_tile(g, scale, unit_scale, unit_length, begin, out):
    """out ← scale·g, times the factor of each element's unit where units are clipped."""
    if not unit_scale:
        factor = cast(scale, out)
        for i in range(len(g)):
            out[i] = g[i] * factor
        return
    factors = view(unit_scale, (begin + len(g)) // unit_length + 1, np.empty(0, np.float64))
    for i in range(len(g)):
        out[i] = g[i] * cast(scale * factors[(begin + i) // unit_length], out)


@inlined
def cast(x, like):
    """A float64 rounded once to the type of `like`."""
    return like.dtype.type(x)


@compiled
def clip_tile(g, limit):
    for i in range(len(g)):
        x = g[i]
        g[i] = limit if x > limit else (-limit if x < -limit else x)


@compiled
def penalty_tile(g, p, l2, l1):
    for i in range(len(g)):
        x = p[i]
        g[i] = g[i] + (l2 * x + l1 * cast((1 if x > 0 else 0) - (1 if x < 0 else 0), g))


@compiled
def decay_tile(p, decay):
    for i in range(len(p)):
        p[i] = p[i] * decay


@compiled
def shrink_tile(p, threshold):
    zero = cast(0.0, p)
    for i in range(len(p)):
        x = p[i]
        if x > threshold:
            p[i] = x - threshold
        elif x < -threshold:
            p[i] = x + threshold
        elif x == x:
            p[i] = zero


@compiled
def approach_tile(mean, p, weight):
    for i in range(len(p)):
        mean[i] = mean[i] + weight * (p[i] - mean[i])


@compiled
def add_tile(acc, g, scale, overwrite):
    for i in range(len(g)):
        acc[i] = g[i] * scale if overwrite else acc[i] + g[i] * scale


@compiled
def bfloat16_tile(p, out):
    for i in range(len(p)):
        u = np.float32(p[i]).view(np.uint32)
        quiet = (u >> np.uint32(16)) | np.uint32(0x40)
        rounded = (u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        out[i] = quiet if p[i] != p[i] else rounded


@compiled
def float16_tile(p, out):
    """Round to nearest even by integers alone (csrc/dtype.h)."""
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
def sum_of_squared_differences(x, y):
    """Σ (x − y)² over a block in float64."""
    lane = np.zeros(LANES)
    for i in range(len(x)):
        u = np.float64(x[i]) - np.float64(y[i])
        lane[i % LANES] += u * u
    return fold_lanes(lane)


@inlined
def maximum(a, b):
    """The larger of two numbers; NaN if either is NaN."""
    return a if a >= b or a != a else b


@compiled
def largest_difference(x, y):
    """max |x − y|; NaN if any is NaN."""
    largest = 0.0
    for i in range(len(x)):
        largest = maximum(largest, abs(np.float64(x[i]) - np.float64(y[i])))
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
    """Adds x to a pairwise sum held as partial sums by level (csrc/reduce.h)."""
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
def unit_norms_span(t, first, last, like):
    """Norms of gradient and weight of units first … last − 1; a unit sums in blocks of its own."""
    g, p = np.empty(BLOCK, like.dtype), np.empty(BLOCK, like.dtype)
    out = view(t.unit_norms, 2 * last, np.empty(0, np.float64))
    for unit in range(first, last):
        gg, pp, count = np.zeros(64), np.zeros(64), 0
        end = (unit + 1) * t.unit_length
        for i in range(unit * t.unit_length, end, BLOCK):
            n = min(BLOCK, end - i)
            gradient_tile(t.g, t.g_layout, t.samples, t.sample_stride, i, g[:n])
            gradient_tile(t.p, t.p_layout, 1, 0, i, p[:n])
            push(gg, count, sum_of_products(g[:n], g[:n]))
            push(pp, count, sum_of_products(p[:n], p[:n]))
            count += 1
        out[2 * unit] = np.sqrt(total(gg, count))
        out[2 * unit + 1] = np.sqrt(total(pp, count))
