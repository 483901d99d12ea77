"""csrc/cpu/engine.h for Numba: ranges of blocks, around a rule's loops and the loops of stages."""

from __future__ import annotations

import numpy as np

from fastupdate.engines import records
from fastupdate.engines.python.compiling import compiled, inlined
from fastupdate.engines.python.gradients import (
    AT,
    COUNT,
    INTEGERS,
    LENGTH,
    clear_gradient,
    gradient_tile,
    is_lazy,
    rows_of,
    sum_row,
)
from fastupdate.engines.python.sums import sum_gradient, sum_momentum, sum_update, unit_norms_span
from fastupdate.engines.python.tiles import (
    AFTER,
    CHANGE,
    COPY,
    SHADOW,
    STAGES,
    add_tile,
    apply_tile,
    cast,
    condition_tile,
    copy_out,
    copy_tile,
    factors_of,
    read_tile,
    scale_tile,
    view,
    write_tile,
)

BLOCK, ACCUMULATOR = records.BLOCK, records.ACCUMULATOR
ZERO_GRADS, MONITOR = records.ZERO_GRADS, records.MONITOR


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
def of_type(t, like):
    """Whether the tensor has the type of `like`; each type has machine code of its own."""
    return (t.dtype == 0) == (like.itemsize == 4)


@compiled
def tensors_in(tensors, first, last):
    """Those that have elements in blocks first … last − 1, by index."""
    begin = end = first_tensor(tensors, first)
    while end < len(tensors) and tensors[end].first_block < last:
        end += 1
    return range(begin, end)


@compiled
def span(t, like, first, last):
    """Which elements of a tensor are in these blocks: begin, end; no element if it is of another type than `like`."""
    if not of_type(t, like):
        return 0, 0
    return max(first - t.first_block, 0) * BLOCK, min((last - t.first_block) * BLOCK, t.n)


@compiled
def update_tile(loop, run, t, group, scalars, scale, stages, sums, begin, n, like, scratch):
    """The first of the tiles in scratch is the raw gradient."""
    raw, p, before, delta, g = scratch[0, :n], scratch[1, :n], scratch[2, :n], scratch[3, :n], scratch[4, :n]
    read_tile(t.p, t.p_layout, begin, p)
    copy_tile(p, before)
    if stages & MONITOR:
        sum_momentum(t, raw, begin, sums[0])
    condition_tile(run, t, group, scale, stages, True, begin, raw, p, g)
    loop(t, scalars, cast(1.0, like), begin, g, p, delta, False)
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
def update_rows(loop, run, t, group, scalars, scale, stages, sums, begin, end, like, scratch):
    """A step of the rows that a gradient touches: what belongs to others rests. Each row is a run of elements."""
    rows = rows_of(t)
    length, at = rows[LENGTH], view(rows[AT], rows[COUNT], INTEGERS)
    while begin < end:
        k, column = begin // length, begin % length
        n = min(length - column, end - begin, BLOCK)
        sum_row(t, k, column, scratch[0, :n])
        i = at[k] * length + column
        update_tile(loop, run, t, group, scalars, scale, stages, sums[:1], i, n, like, scratch)
        begin += n


@compiled
def update_span(loop, run, t, group, scalars, scale, stages, sums, begin, end, like):
    direct = t.samples == 1 and t.g_dtype == t.dtype and not (t.g_layout or t.touched)
    plain = direct and stages == 0 and not (t.p_layout or t.slot[SHADOW] or t.unit_scale or t.work)
    plain = plain and factors_of(scale, like)[1] == 1
    if plain:
        g, p = view(t.g, end, like)[begin:], view(t.p, end, like)[begin:]
        loop(t, scalars, cast(scale, like), begin, g, p, p, True)
        return
    scratch = np.empty((5, BLOCK), like.dtype)
    if is_lazy(t):
        update_rows(loop, run, t, group, scalars, scale, stages, sums, begin, end, like, scratch)
        return
    for i in range(begin, end, BLOCK):
        k = t.first_block + i // BLOCK if stages & MONITOR else 0
        n = min(BLOCK, end - i)
        gradient_tile(t, i, scratch[0, :n])
        update_tile(loop, run, t, group, scalars, scale, stages, sums[k : k + 1], i, n, like, scratch)


@compiled
def update(tensors, loop, run, groups, scalars, scale, stages, sums, like, first, last):
    """Updates blocks first … last − 1 by a rule's loop; run: stages."""
    for i in tensors_in(tensors, first, last):
        t = tensors[i]
        begin, end = span(t, like, first, last)
        row, factor = scalars[t.group], scale * t.scale
        update_span(loop, run, t, groups[t.group], row, factor, stages, sums, begin, end, like)


@compiled
def gradient_sums(tensors, sums, scale, like, first, last):
    tile = np.empty(BLOCK, like.dtype)
    for i in tensors_in(tensors, first, last):
        t = tensors[i]
        begin, end = span(t, like, first, last)
        for at in range(begin, end, BLOCK):
            g = tile[: min(BLOCK, end - at)]
            gradient_tile(t, at, g)
            scale_tile(g, scale, 0, 1, 0, g)
            sum_gradient(g, sums[t.first_block + at // BLOCK])


@compiled
def accumulate(tensors, overwrite, clear, like, first, last):
    tile = np.empty(BLOCK, like.dtype)
    for i in tensors_in(tensors, first, last):
        t = tensors[i]
        begin, end = span(t, like, first, last)
        for at in range(begin, end, BLOCK):
            g = tile[: min(BLOCK, end - at)]
            gradient_tile(t, at, g)
            add_tile(view(t.slot[ACCUMULATOR], at + len(g), like)[at:], g, cast(t.scale, like), overwrite)
            if clear:
                clear_gradient(t, at, len(g), like)


@compiled
def clear_gradients(tensors, like, first, last):
    for i in tensors_in(tensors, first, last):
        t = tensors[i]
        begin, end = span(t, like, first, last)
        clear_gradient(t, begin, end - begin, like)


@compiled
def unit_norms(tensors, scale, like, first, last):
    for i in tensors_in(tensors, first, last):
        t = tensors[i]
        begin, end = span(t, like, first, last)
        length = t.unit_length
        unit_norms_span(t, (begin + length - 1) // length, (end + length - 1) // length, scale, like)
