"""How the Numba engine walks ranges of blocks, tile by tile: csrc/engine_cpu.h, function by function."""

from __future__ import annotations

import numpy as np

from fastupdate import plan
from fastupdate.numba_kernels import (
    add_tile,
    apply_tile,
    approach_tile,
    bfloat16_tile,
    cast,
    clip_tile,
    compiled,
    count_gradient,
    decay_tile,
    float16_tile,
    fold_column,
    gradient_tile,
    inlined,
    largest_difference,
    maximum,
    penalty_tile,
    scale_tile,
    shrink_tile,
    sum_of_products,
    sum_of_squared_differences,
    unit_norms_span,
    view,
    write_strided,
)

BLOCK = plan.BLOCK
CLIP_VALUE, PENALTY, DECAY, SHRINK = plan.CLIP_VALUE, plan.PENALTY, plan.DECAY, plan.SHRINK
LOOKAHEAD, EMA, ZERO_GRADS, MONITOR = plan.LOOKAHEAD, plan.EMA, plan.ZERO_GRADS, plan.MONITOR
FLOAT16 = plan.SHADOW_DTYPES["float16"]
HALF = np.empty(0, np.uint16)


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
    nothing = np.zeros(n, like.dtype)
    for s in range(t.samples):
        base = np.uint64(np.int64(t.g) + s * t.sample_stride)
        if t.g_layout:
            write_strided(base, t.g_layout, begin, nothing)
        else:
            view(base, begin + n, like)[begin:] = nothing


@compiled
def after_rule(t, group, stages, begin, p):
    end = begin + len(p)
    if stages & SHRINK:
        shrink_tile(p, cast(group.shrink, p))
    if stages & LOOKAHEAD:
        slow = view(t.slow, end, p)[begin:]
        approach_tile(slow, p, cast(group.lookahead, p))
        p[:] = slow
    if stages & EMA:
        approach_tile(view(t.ema, end, p)[begin:], p, cast(group.ema, p))
    if t.shadow:
        shadow = view(t.shadow, end, HALF)[begin:]
        if t.shadow_dtype == FLOAT16:
            float16_tile(p, shadow)
        else:
            bfloat16_tile(p, shadow)


@compiled
def sum_gradient(g, sums):
    sums.gg = sum_of_products(g, g)
    sums.nonfinite, sums.zeros = count_gradient(g)


@compiled
def sum_momentum(t, raw, begin, sums):
    """Gradient against the momentum of the steps before; with this gradient in it, it would agree with any gradient."""
    sums.gm = sums.mm = 0.0
    if t.momentum >= 0:
        m = view(t.state[t.momentum], begin + len(raw), raw)[begin:]
        sums.gm = sum_of_products(raw, m)
        sums.mm = sum_of_products(m, m)


@compiled
def sum_update(raw, before, p, stalled, sums):
    sum_gradient(raw, sums)
    sums.pp = sum_of_products(p, p)
    sums.uu = sum_of_squared_differences(p, before)
    sums.largest = largest_difference(p, before)
    sums.stalled = stalled


@compiled
def update_tile(loop, t, group, scalars, scale, stages, sums, begin, n, like, scratch):
    raw, p, before, delta, g = scratch[0, :n], scratch[1, :n], scratch[2, :n], scratch[3, :n], scratch[4, :n]
    gradient_tile(t.g, t.g_layout, t.samples, t.sample_stride, begin, raw)
    gradient_tile(t.p, t.p_layout, 1, 0, begin, p)
    before[:] = p
    if stages & MONITOR:
        sum_momentum(t, raw, begin, sums[0])
    scale_tile(raw, scale, t.unit_scale, t.unit_length, begin, g)
    if stages & CLIP_VALUE:
        clip_tile(g, cast(group.clip_value, like))
    if stages & PENALTY:
        penalty_tile(g, p, cast(group.l2, like), cast(group.l1, like))
    if stages & DECAY:
        decay_tile(p, cast(group.decay, like))
    loop(t, scalars, cast(1.0, like), begin, g, p, delta)
    stalled = apply_tile(p, delta)
    after_rule(t, group, stages, begin, p)
    if stages & MONITOR:
        sum_update(raw, before, p, stalled, sums[0])
    if t.p_layout:
        write_strided(t.p, t.p_layout, begin, p)
    else:
        view(t.p, begin + n, like)[begin:] = p
    if stages & ZERO_GRADS:
        clear_gradient(t, begin, n, like)


@compiled
def update_span(apply, differ, t, group, scalars, scale, stages, sums, begin, end, like):
    plain = stages == 0 and t.samples == 1 and not (t.p_layout or t.g_layout or t.shadow or t.unit_scale)
    if plain:
        g, p = view(t.g, end, like)[begin:], view(t.p, end, like)[begin:]
        apply(t, scalars, cast(scale, like), begin, g, p, p)
        return
    scratch = np.empty((5, BLOCK), like.dtype)
    for i in range(begin, end, BLOCK):
        k = t.first_block + i // BLOCK if stages & MONITOR else 0
        n = min(BLOCK, end - i)
        update_tile(differ, t, group, scalars, scale, stages, sums[k : k + 1], i, n, like, scratch)


@compiled
def update(tensors, apply, differ, groups, scalars, scale, stages, sums, like, first, last):
    """Updates blocks first … last − 1; apply and differ are a rule's loops, p ← p + Δ and out ← Δ."""
    i = first_tensor(tensors, first)
    while i < len(tensors) and tensors[i].first_block < last:
        t = tensors[i]
        if of_type(t, like):
            begin, end = span(t, first, last)
            row, factor = scalars[t.group], scale * t.scale
            update_span(apply, differ, t, groups[t.group], row, factor, stages, sums, begin, end, like)
        i += 1


@compiled
def gradient_sums(tensors, sums, like, first, last):
    tile = np.empty(BLOCK, like.dtype)
    i = first_tensor(tensors, first)
    while i < len(tensors) and tensors[i].first_block < last:
        t = tensors[i]
        if of_type(t, like):
            begin, end = span(t, first, last)
            for at in range(begin, end, BLOCK):
                g = tile[: min(BLOCK, end - at)]
                gradient_tile(t.g, t.g_layout, t.samples, t.sample_stride, at, g)
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
                gradient_tile(t.g, t.g_layout, t.samples, t.sample_stride, at, g)
                add_tile(view(t.acc, at + len(g), like)[at:], g, cast(t.scale, like), overwrite)
                if clear:
                    clear_gradient(t, at, len(g), like)
        i += 1


@compiled
def unit_norms(tensors, like, first, last):
    i = first_tensor(tensors, first)
    while i < len(tensors) and tensors[i].first_block < last:
        t = tensors[i]
        if of_type(t, like):
            begin, end = span(t, first, last)
            length = t.unit_length
            unit_norms_span(t, (begin + length - 1) // length, (end + length - 1) // length, like)
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
        totals[i].largest = 0.0
        totals[i].nonfinite = totals[i].zeros = totals[i].stalled = 0
        for b in block:
            totals[i].largest = maximum(totals[i].largest, b.largest)
            totals[i].nonfinite += b.nonfinite
            totals[i].zeros += b.zeros
            totals[i].stalled += b.stalled
