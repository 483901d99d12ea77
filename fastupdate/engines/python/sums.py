"""csrc/core/sums.h for Numba: the same sums in the same order.

One worker adds up a block on a CPU, a tile at a time. On a device there are 32, one for each lane: thread j takes
elements j, j + 32, … This is all that kernels know of where they run.
"""

from __future__ import annotations

import numpy as np

from fastupdate.engines import records
from fastupdate.engines.python.compiling import compiled, inlined
from fastupdate.engines.python.tiles import some

BLOCK, LANES = records.BLOCK, records.LANES
COLUMNS = len(records.SUMS.names or ())
GG, PP, UU, GM, MM, GU, LARGEST, NONFINITE, ZEROS, STALLED = range(COLUMNS)
LEVELS = 64  # of a pairwise sum


@inlined
def worker():
    """Which of those who work on this block we are."""
    return 0


@inlined
def workers():
    """How many there are."""
    return 1


@inlined
def meet():
    """Waits until all of them are here."""


@inlined
def lane_of(i):
    """The lane of the i-th element of a block."""
    return i & (LANES - 1)


@compiled
def maximum(a, b):
    """The larger of two numbers; NaN if either is NaN."""
    return a if a >= b or a != a else b


@compiled
def joined(a, b, largest):
    """How two numbers come together."""
    return maximum(a, b) if largest else a + b


@compiled
def clear_lanes(lanes):
    for column in range(len(lanes)):
        for j in range(worker(), LANES, workers()):
            lanes[column, j] = 0.0


@compiled
def fold_lanes(lanes, largest):
    """The lanes of one column, folded pairwise by one worker; or the largest of them."""
    width = LANES // 2
    while width:
        for j in range(width):
            lanes[j] = joined(lanes[j], lanes[j + width], largest)
        width //= 2
    return lanes[0]


@compiled
def fold_block(lanes, sums):
    meet()
    for column in range(worker(), COLUMNS, workers()):
        sums[column] = fold_lanes(lanes[column], column == LARGEST)


@compiled
def add_products(lane, begin, x, y):
    """Adds x·y to the lanes of a block's elements from `begin` on; whole rows of lanes are vectorized."""
    i = 0
    while lane_of(begin + i) == 0 and i + LANES <= len(x):
        for j in range(LANES):
            lane[j] += np.float64(x[i + j]) * np.float64(y[i + j])
        i += LANES
    for k in range(i, len(x)):
        lane[lane_of(begin + k)] += np.float64(x[k]) * np.float64(y[k])


@compiled
def sum_gradient(lanes, begin, g):
    """The counts of all go to the first one's lane, for they are the same in any order."""
    add_products(lanes[GG], begin, g, g)
    nonfinite = zeros = 0
    for i in range(len(g)):
        nonfinite += 0 if g[i] - g[i] == 0 else 1
        zeros += 1 if g[i] == 0 else 0
    lanes[NONFINITE, lane_of(begin)] += nonfinite
    lanes[ZEROS, lane_of(begin)] += zeros


@compiled
def sum_momentum(lanes, t, begin, g):
    """Gradient against the momentum of the steps before; with this gradient in it, it would agree with any gradient."""
    if t.momentum >= 0:
        m = some(t.slot[t.momentum], begin, len(g), g.dtype)
        add_products(lanes[GM], begin, g, m)
        add_products(lanes[MM], begin, m, m)


@compiled
def sum_update(lanes, begin, before, p, g):
    """before becomes the change of p; the largest of all goes to the first one's lane."""
    largest = lanes[LARGEST, lane_of(begin)]
    for i in range(len(p)):
        before[i] = p[i] - before[i]
        largest = maximum(largest, np.float64(abs(before[i])))
    lanes[LARGEST, lane_of(begin)] = largest
    add_products(lanes[PP], begin, p, p)
    add_products(lanes[UU], begin, before, before)
    add_products(lanes[GU], begin, g, before)


@compiled
def push(level, count, x, largest):
    """Adds x to a pairwise sum held as partial sums by level (csrc/core/sums.h)."""
    depth, k = 0, count
    while k & 1:
        x = joined(level[depth], x, largest)
        depth += 1
        k >>= 1
    level[depth] = x


@compiled
def total(level, count, largest):
    result, found, depth = 0.0, False, 0
    while count >> depth:
        if (count >> depth) & 1:
            result = joined(level[depth], result, largest) if found else level[depth]
            found = True
        depth += 1
    return result


@compiled
def fold_parts(x, first, count, pitch, largest, level):
    """What `count` numbers come to, `pitch` apart from the `first` on, folded pairwise."""
    for k in range(count):
        push(level, k, x[first + k * pitch], largest)
    return total(level, count, largest)


@compiled
def fold(tensors, sums, totals):
    """Sums of blocks → sums of tensors, pairwise in order."""
    level = np.empty(LEVELS)
    for i in range(len(tensors)):
        first, count = tensors[i].first_block * COLUMNS, (tensors[i].n + BLOCK - 1) // BLOCK
        for column in range(COLUMNS):
            totals[i, column] = fold_parts(sums, first + column, count, COLUMNS, column == LARGEST, level)
