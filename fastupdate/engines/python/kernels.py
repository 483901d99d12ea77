"""What is done with a block, around a rule's loops and those of stages: csrc/cpu/engine.h and csrc/cuda/engine.cuh.

Each of these functions takes a tensor, one of its blocks, and room to work in; then what it calls of a rule and of
stages, and what it is for.
"""

from __future__ import annotations

import math
from collections import namedtuple
from functools import cache
from inspect import signature
from typing import Any

import numpy as np

from fastupdate.engines import records
from fastupdate.engines.python.compiling import compiled, defined, inlined
from fastupdate.engines.python.sums import (
    COLUMNS,
    GG,
    LANES,
    LEVELS,
    PP,
    STALLED,
    add_products,
    clear_lanes,
    fold_block,
    fold_lanes,
    lane_of,
    meet,
    push,
    sum_gradient,
    sum_momentum,
    sum_update,
    total,
    worker,
    workers,
)
from fastupdate.engines.python.tiles import (
    AFTER,
    CHANGE,
    COPY,
    SHADOW,
    STAGES,
    cast,
    clear_gradient,
    condition_tile,
    copy_out,
    copy_tile,
    element,
    gradient_tile,
    place_in,
    put,
    read_tile,
    scale_tile,
    stretch,
    write_tile,
)

BLOCK, ACCUMULATOR = records.BLOCK, records.ACCUMULATOR
ZERO_GRADS, MONITOR = records.ZERO_GRADS, records.MONITOR

# lanes   of the sums of a block, which all that work on it share
# tiles   of the compute type, one below the other
# terms   what the elements of a tile add to the sums of a phase
# levels  of a pairwise sum, for each sum of a phase that a worker folds
# sums    of one range
Room = namedtuple("Room", "lanes tiles terms levels sums")


@inlined
def first_tensor(tensors, block):
    """The first tensor that ends after a block."""
    low, high = 0, len(tensors)
    while low < high:
        middle = (low + high) // 2
        if tensors[middle].first_block + (tensors[middle].n + BLOCK - 1) // BLOCK > block:
            high = middle
        else:
            low = middle + 1
    return low


@inlined
def of_type(t, like):
    """Whether the tensor has the type of `like`; each type has machine code of its own."""
    return (t.kind == 0) == (like.itemsize == 4)


@inlined
def bounds(t, block):
    """The first element of a block, and the one after its last."""
    begin = (block - t.first_block) * BLOCK
    return begin, min(begin + BLOCK, t.n)


@compiled
def update_tile(loop, run, t, room, group, scalars, scale, stages, i, n):
    raw, p, before, g = room.tiles[0, :n], room.tiles[1, :n], room.tiles[2, :n], room.tiles[3, :n]
    delta = room.tiles[4, :n]
    at = place_in(t, i)
    gradient_tile(t, i, raw)
    read_tile(t.p, t.p_layout, at, p)
    copy_tile(p, before)
    if stages & MONITOR:
        sum_momentum(room.lanes, t, at, raw)
    condition_tile(run, t, group, scale, stages, True, at, raw, p, g)
    loop(t, group, scalars, at, g, p, g, room.tiles[4:], True)
    if stages & STAGES:
        run(t, group, stages, CHANGE, True, at, g, p, delta)
    for k in range(n):
        moved = p[k] + delta[k]
        if stages & MONITOR and moved == p[k] and delta[k] != 0:
            room.lanes[STALLED, lane_of(i + k)] += 1
        p[k] = moved
    if stages & STAGES:
        run(t, group, stages, AFTER, True, at, g, p, p)
        run(t, group, stages, COPY, True, at, g, p, p)
    if t.slot[SHADOW]:
        copy_out(t, at, p)
    if stages & MONITOR:
        sum_gradient(room.lanes, i, raw)
        sum_update(room.lanes, i, before, p, raw)
    write_tile(t.p, t.p_layout, at, p)
    if stages & ZERO_GRADS:
        clear_gradient(t, at, n, p)


@compiled
def update(t, block, room, loop, run, groups, scalars, scale, stages, sums):
    """One step, by a rule's loop; run: the stages of a place."""
    clear_lanes(room.lanes)
    i, end = bounds(t, block)
    i += worker()
    while i < end:
        n = stretch(t, i, end, room.tiles.shape[1])
        update_tile(loop, run, t, room, groups[t.group], scalars[t.group], scale * t.scale, stages, i, n)
        i += n * workers()
    if stages & MONITOR:
        fold_block(room.lanes, sums[block])


@compiled
def gradient_sums(t, block, room, sums, scale):
    """Σ(scale·g)² and the counts."""
    clear_lanes(room.lanes)
    i, end = bounds(t, block)
    i += worker()
    while i < end:
        g = room.tiles[0, : stretch(t, i, end, room.tiles.shape[1])]
        gradient_tile(t, i, g)
        scale_tile(g, scale, 0, 1, 0, g)
        sum_gradient(room.lanes, i, g)
        i += len(g) * workers()
    fold_block(room.lanes, sums[block])


@compiled
def accumulate(t, block, room, overwrite, clear):
    """Adds the gradients to the accumulators."""
    i, end = bounds(t, block)
    i += worker()
    while i < end:
        g, at = room.tiles[0, : stretch(t, i, end, room.tiles.shape[1])], t.slot[ACCUMULATOR]
        gradient_tile(t, i, g)
        for k in range(len(g)):
            x = g[k] * cast(t.scale, g)
            put(at, 0, i + k, x if overwrite else element(at, 0, i + k, g.dtype) + x, g.dtype)
        if clear:
            clear_gradient(t, i, len(g), g)
        i += len(g) * workers()


@compiled
def clear_gradients(t, block, room):
    i, end = bounds(t, block)
    i += worker()
    while i < end:
        n = stretch(t, i, end, room.tiles.shape[1])
        clear_gradient(t, i, n, room.tiles)
        i += n * workers()


@compiled
def unit_norms(t, block, room, scale):
    """Norms of gradient and weight, both times scale, of units that begin here; a unit sums in blocks of its own."""
    begin, end = bounds(t, block)
    length = t.unit_length
    for unit in range((begin + length - 1) // length, (end + length - 1) // length):
        pieces, last = (length + BLOCK - 1) // BLOCK, (unit + 1) * length
        for piece in range(pieces):
            sum_squares(t, room, scale, unit * length + piece * BLOCK, last)
            for column in range(worker(), 2, workers()):
                push(room.levels[column // workers()], piece, fold_lanes(room.lanes[column], False), False)
            meet()
        for column in range(worker(), 2, workers()):
            norm = math.sqrt(total(room.levels[column // workers()], pieces, False))
            put(t.unit_norms, 0, 2 * unit + column, norm, np.float64)


@compiled
def sum_squares(t, room, scale, begin, last):
    """Of scale·g and scale·p, from an element on: of a block, or up to the last."""
    clear_lanes(room.lanes)
    i, end = begin + worker(), min(begin + BLOCK, last)
    while i < end:
        n = stretch(t, i, end, room.tiles.shape[1])
        g, p = room.tiles[0, :n], room.tiles[1, :n]
        gradient_tile(t, i, g)
        read_tile(t.p, t.p_layout, i, p)
        scale_tile(g, scale, 0, 1, 0, g)
        scale_tile(p, scale, 0, 1, 0, p)
        add_products(room.lanes[GG], i - begin, g, g)
        add_products(room.lanes[PP], i - begin, p, p)
        i += n * workers()
    meet()


# How large room is; a tile is a block on a CPU, and an element on a device.
SIZES = {"lanes": (COLUMNS, LANES), "tiles": 5, "most": records.MAX_SUMS, "levels": LEVELS, "block": BLOCK}

_ENTRY = """
def {name}(tensors, {given}like, first, last):
    lanes, levels, found = np.empty({lanes}), np.empty(({most}, {levels})), np.empty({most})
    room = Room(lanes, np.empty(({tiles}, {block}), like.dtype), np.empty(({most}, {block})), levels, found)
    for block in range(first, last):
        t = tensors[first_tensor(tensors, block)]
        if of_type(t, like):
            work({arguments})
"""


def names_of(work: Any) -> list[str]:
    """What one of the functions above takes, by name: a tensor, a block and room first."""
    return [*signature(work.py_func).parameters]


def written(template: str, work: Any, functions: int = 0) -> str:
    """A source around one of them, which is given what it takes beside these and so many functions."""
    names = names_of(work)
    given = "".join(f"{name}, " for name in names[3 + functions :] if name != "tensors")
    return template.format(name=work.py_func.__name__, arguments=", ".join(names), given=given, **SIZES)


@cache
def entry(work: Any) -> Any:
    """One of the functions above, for blocks first … last − 1 of a list of tensors, for those of a type."""
    scope = {"np": np, "Room": Room, "first_tensor": first_tensor, "of_type": of_type, "work": work}
    return compiled(defined(written(_ENTRY, work), scope)[work.py_func.__name__])
