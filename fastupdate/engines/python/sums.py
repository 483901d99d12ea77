"""csrc/core/sums.h for Numba: the same sums in the same order."""

from __future__ import annotations

import numpy as np

from fastupdate.engines import records
from fastupdate.engines.python.compiling import compiled, inlined
from fastupdate.engines.python.gradients import gradient_tile
from fastupdate.engines.python.tiles import DOUBLE, read_tile, scale_tile, view

BLOCK, LANES = records.BLOCK, records.LANES


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


@compiled
def unit_norms_span(t, first, last, scale, like):
    """Norms of gradient and weight, both times scale, of units first … last − 1; a unit sums in blocks of its own."""
    g, p = np.empty(BLOCK, like.dtype), np.empty(BLOCK, like.dtype)
    out = view(t.unit_norms, 2 * last, DOUBLE)
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
