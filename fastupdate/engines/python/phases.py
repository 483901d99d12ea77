"""csrc/cpu/phases.h and csrc/cuda/phases.cuh: elements are measured, in the same order, and ranges settled."""

from __future__ import annotations

import numpy as np

from fastupdate.engines import records
from fastupdate.engines.python.compiling import compiled
from fastupdate.engines.python.formula import COLUMN, LIST, MATRIX, ROW, TENSOR, UNIT
from fastupdate.engines.python.kernels import BLOCK, bounds
from fastupdate.engines.python.sums import (
    clear_lanes,
    fold_lanes,
    fold_parts,
    joined,
    lane_of,
    meet,
    push,
    total,
    worker,
    workers,
)
from fastupdate.engines.python.tiles import (
    CHANGE,
    condition_tile,
    copy_tile,
    element,
    gradient_tile,
    place_in,
    put,
    read_tile,
    stretch,
    view,
)
from fastupdate.stages import at

CHANGES = at("change")
ROW_CHUNK = records.ROW_CHUNK


@compiled
def measure_tile(loop, change, run, t, room, step, i, n):
    """terms ← what each element adds. change: what the rule would change p by, for a stage that measures it."""
    group, scalars, scale, stages = step
    raw, p, g, x = room.tiles[0, :n], room.tiles[1, :n], room.tiles[3, :n], room.tiles[4, :n]
    begin = place_in(t, i)
    gradient_tile(t, i, raw)
    read_tile(t.p, t.p_layout, begin, p)
    condition_tile(run, t, group, scale, stages, False, begin, raw, p, g)
    copy_tile(g, x)
    change(t, group, scalars, begin, g, p, x, room.tiles[4:], False)
    if stages & CHANGES:
        run(t, group, stages, CHANGE, False, begin, g, p, x)
    loop(t, group, scalars, begin, g, p, x, room.terms, True)


@compiled
def measure_piece(loop, change, run, t, room, step, count, maxima, begin, end, below):
    """At most a block of elements, by lanes; each is joined with what its column has come to, if that is anywhere."""
    clear_lanes(room.lanes)
    i = begin + worker()
    while i < end:
        n = stretch(t, i, end, room.tiles.shape[1])
        measure_tile(loop, change, run, t, room, step, i, n)
        for k in range(count):
            for j in range(n):
                lane, x, largest = lane_of(i - begin + j), room.terms[k, j], maxima >> k & 1
                room.lanes[k, lane] = joined(room.lanes[k, lane], x, largest)
                if below:
                    column = below + k * t.columns + (i + j) % t.columns
                    before = element(t.work, 0, column, np.float64)
                    put(t.work, 0, column, joined(before, x, largest), np.float64)
        i += n * workers()
    meet()


@compiled
def measure_chunk(loop, change, run, t, room, step, count, maxima, columns, first):
    """The rows from one on that are a chunk, one after the other."""
    width, rows = t.columns, t.n // t.columns
    chunk = first // t.rows * ((t.rows + ROW_CHUNK - 1) // ROW_CHUNK) + first % t.rows // ROW_CHUNK
    below = count * (1 + rows + chunk * width) if columns else 0
    for k in range(below + worker(), below + count * width if columns else 0, workers()):
        put(t.work, 0, k, 0.0, np.float64)
    meet()
    pieces = (width + BLOCK - 1) // BLOCK
    for row in range(first, min(first + ROW_CHUNK, (first // t.rows + 1) * t.rows, rows)):
        for piece in range(pieces):
            begin, end = row * width + piece * BLOCK, min((piece + 1) * BLOCK, width) + row * width
            measure_piece(loop, change, run, t, room, step, count, maxima, begin, end, below)
            for k in range(worker(), count, workers()):
                largest = maxima >> k & 1
                push(room.levels[k // workers()], piece, fold_lanes(room.lanes[k], largest), largest)
            meet()
        for k in range(worker(), count, workers()):
            found = total(room.levels[k // workers()], pieces, maxima >> k & 1)
            put(t.work, 0, count * (1 + row) + k, found, np.float64)


@compiled
def measure(t, block, room, loop, change, run, count, maxima, by_rows, columns, groups, scalars, scale, stages):
    """What elements add up to: a block of them, or the chunks of rows that begin in it."""
    step = groups[t.group], scalars[t.group], scale * t.scale, stages
    begin, end = bounds(t, block)
    if by_rows:
        for first in range((begin + t.columns - 1) // t.columns, (end + t.columns - 1) // t.columns):
            if first % t.rows % ROW_CHUNK == 0:
                measure_chunk(loop, change, run, t, room, step, count, maxima, columns, first)
    else:
        measure_piece(loop, change, run, t, room, step, count, maxima, begin, end, 0)
        for k in range(worker(), count, workers()):
            found = fold_lanes(room.lanes[k], maxima >> k & 1)
            put(t.work, 0, count * (1 + begin // BLOCK) + k, found, np.float64)


@compiled
def settle_rows(of_range, t, room, scalars, count, maxima, ranges, rows):
    """Ranges of so many whole rows."""
    parts = view(t.work, count * (1 + ranges * rows), np.float64)
    for i in range(worker(), ranges, workers()):
        for k in range(count):
            first = count * (1 + i * rows) + k
            room.sums[k] = fold_parts(parts, first, rows, count, maxima >> k & 1, room.levels[0])
        of_range(t, scalars, float(rows * t.columns), room.sums, i)


@compiled
def settle(t, block, room, of_row, of_column, of_matrix, of_unit, of_tensor, count, maxima, by_rows, shape, settling):
    """All ranges of a tensor, with its first block; shape: bit e is set if ranges of extent e are settled."""
    if block != t.first_block:
        return
    scalars = settling[t.group]
    matrices, per = t.n // (t.rows * t.columns), (t.rows + ROW_CHUNK - 1) // ROW_CHUNK
    parts = t.n // t.columns if by_rows else (t.n + BLOCK - 1) // BLOCK
    work = view(t.work, count * (1 + parts + matrices * per * t.columns), np.float64)
    if shape >> ROW & 1:
        for r in range(worker(), parts, workers()):
            of_row(t, scalars, float(t.columns), work[count * (1 + r) :], place_in(t, r * t.columns) // t.columns)
    if shape >> COLUMN & 1:
        for c in range(worker(), matrices * t.columns, workers()):
            for k in range(count):
                first = count * (1 + parts) + (c // t.columns * per * count + k) * t.columns + c % t.columns
                room.sums[k] = fold_parts(work, first, per, count * t.columns, maxima >> k & 1, room.levels[0])
            of_column(t, scalars, float(t.rows), room.sums, c)
    if shape >> MATRIX & 1:
        settle_rows(of_matrix, t, room, scalars, count, maxima, matrices, t.rows)
    if shape >> UNIT & 1:
        rows = t.unit_length // t.columns
        settle_rows(of_unit, t, room, scalars, count, maxima, t.n // t.unit_length, rows)
    if (shape >> TENSOR | shape >> LIST) & 1 and worker() == 0:
        for k in range(count):
            work[k] = fold_parts(work, count + k, parts, count, maxima >> k & 1, room.levels[0])
        if shape >> TENSOR & 1:
            of_tensor(t, scalars, float(t.n), work, 0)


@compiled
def settle_list(t, block, room, of_list, count, maxima, settling, tensors):
    """The list, with the first block of all, by the sums of its tensors and the scalars of the first one's group."""
    if block or worker():
        return
    elements = 0.0
    for i in range(len(tensors)):
        elements += float(tensors[i].n)
    for k in range(count):
        for i in range(len(tensors)):
            push(room.levels[0], i, element(tensors[i].work, 0, k, np.float64), maxima >> k & 1)
        room.sums[k] = total(room.levels[0], len(tensors), maxima >> k & 1)
    of_list(tensors[0], settling[tensors[0].group], elements, room.sums, 0)
