"""csrc/cpu/phases.h for Numba: elements are measured, in the same order, and ranges settled."""

from __future__ import annotations

import numpy as np

from fastupdate.engines import records
from fastupdate.engines.python.compiling import compiled
from fastupdate.engines.python.formula import COLUMN, LIST, MATRIX, ROW, TENSOR, UNIT
from fastupdate.engines.python.gradients import AT, COUNT, INTEGERS, LENGTH, gradient_tile, is_lazy, rows_of, sum_row
from fastupdate.engines.python.kernels import span, tensors_in
from fastupdate.engines.python.sums import BLOCK, LANES, fold_lanes, push, total
from fastupdate.engines.python.tiles import CHANGE, DOUBLE, cast, condition_tile, copy_tile, read_tile, view
from fastupdate.stages import at

CHANGES = at("change")
ROW_CHUNK = records.ROW_CHUNK


@compiled
def larger(a, b):
    """The larger of two numbers; NaN if either is."""
    return b if b > a or b != b else a


@compiled
def sum_of(x, largest):
    """Σ x over a block, in 32 lanes, folded pairwise; or the largest of x and 0."""
    if largest:
        found = 0.0
        for each in x:
            found = larger(found, each)
        return found
    lane = np.zeros(LANES)
    for i in range(len(x)):
        lane[i % LANES] += x[i]
    return fold_lanes(lane)


@compiled
def fold_parts(x, count, pitch, largest):
    """What `count` numbers, `pitch` apart, come to, folded pairwise."""
    if largest:
        return sum_of(x[: count * pitch : pitch], largest)
    level = np.zeros(64)
    for k in range(count):
        push(level, k, x[k * pitch])
    return total(level, count)


@compiled
def measure_tile(loop, change, run, t, group, scalars, scale, stages, begin, n, scratch, terms):
    gradient_tile(t, begin, scratch[0, :n])
    measure_gradient(loop, change, run, t, group, scalars, scale, stages, begin, n, scratch, terms)


@compiled
def measure_gradient(loop, change, run, t, group, scalars, scale, stages, begin, n, scratch, terms):
    """change: the change of p that the rule would make, for a stage that measures it; else nothing.

    The first of the tiles in scratch is the raw gradient.
    """
    raw, p, g, x = scratch[0, :n], scratch[1, :n], scratch[2, :n], scratch[3, :n]
    read_tile(t.p, t.p_layout, begin, p)
    condition_tile(run, t, group, scale, stages, False, begin, raw, p, g)
    copy_tile(g, x)
    change(t, scalars, cast(1.0, p), begin, g, p, x)
    if stages & CHANGES:
        run(t, group, stages, CHANGE, False, begin, g, p, x)
    loop(t, group, scalars, cast(1.0, p), begin, g, p, x, terms)


@compiled
def measure_blocks(loop, change, run, t, group, scalars, scale, stages, begin, end, scratch, terms, maxima):
    count = len(terms)
    parts = view(t.work, count * (1 + (t.n + BLOCK - 1) // BLOCK), DOUBLE)[count:]
    for i in range(begin, end, BLOCK):
        n = min(BLOCK, end - i)
        measure_tile(loop, change, run, t, group, scalars, scale, stages, i, n, scratch, terms)
        for k in range(count):
            parts[i // BLOCK * count + k] = sum_of(terms[k, :n], maxima >> k & 1)


@compiled
def measure_row(loop, change, run, t, group, scalars, scale, stages, row, scratch, terms, maxima, below, out):
    """One row: its sums go to `out`, and each of its elements is joined with what its column has come to."""
    count, width = len(terms), t.columns
    pieces = np.empty((count, (width + BLOCK - 1) // BLOCK))
    for number, i in enumerate(range(0, width, BLOCK)):
        n = min(BLOCK, width - i)
        measure_tile(loop, change, run, t, group, scalars, scale, stages, row * width + i, n, scratch, terms)
        for k in range(count):
            largest = maxima >> k & 1
            pieces[k, number] = sum_of(terms[k, :n], largest)
            if len(below):
                for c in range(n):
                    before, x = below[k * width + i + c], terms[k, c]
                    below[k * width + i + c] = larger(before, x) if largest else before + x
    for k in range(count):
        out[k] = fold_parts(pieces[k], len(pieces[k]), 1, maxima >> k & 1)


@compiled
def measure_rows(loop, change, run, t, group, scalars, scale, stages, begin, end, scratch, terms, maxima, columns):
    """The chunks of rows that start within a span."""
    count, width = len(terms), t.columns
    matrices, per = t.n // (t.rows * width), (t.rows + ROW_CHUNK - 1) // ROW_CHUNK
    rows = view(t.work, count * (1 + matrices * t.rows), DOUBLE)[count:]
    for chunk in range(matrices * per):
        first = chunk // per * t.rows + chunk % per * ROW_CHUNK
        last = min(first + ROW_CHUNK, (first // t.rows + 1) * t.rows)
        if begin <= first * width < end:
            room = view(t.work, count * (1 + matrices * t.rows + (chunk + 1) * width) if columns else 0, DOUBLE)
            below = room[len(room) - count * width :] if columns else room
            below[:] = 0.0
            for row in range(first, last):
                out = rows[row * count : (row + 1) * count]
                measure_row(
                    loop, change, run, t, group, scalars, scale, stages, row, scratch, terms, maxima, below, out
                )


@compiled
def measure_touched(loop, change, run, t, group, scalars, scale, stages, begin, end, scratch, terms, maxima):
    """The touched rows that start within a span, of a phase that settles rows alone."""
    touched = rows_of(t)
    count, width, length = len(terms), t.columns, touched[LENGTH]
    at = view(touched[AT], touched[COUNT], INTEGERS)
    first, last = (begin + length - 1) // length, (end + length - 1) // length
    sums = view(t.work, count * (1 + len(at) * (length // width)), DOUBLE)[count:]
    pieces = np.empty((count, (width + BLOCK - 1) // BLOCK))
    for row in range(first * length // width, last * length // width):
        k, column = row * width // length, row * width % length
        for number, i in enumerate(range(0, width, BLOCK)):
            n, begin = min(BLOCK, width - i), at[k] * length + column + i
            sum_row(t, k, column + i, scratch[0, :n])
            measure_gradient(loop, change, run, t, group, scalars, scale, stages, begin, n, scratch, terms)
            for j in range(count):
                pieces[j, number] = sum_of(terms[j, :n], maxima >> j & 1)
        for j in range(count):
            sums[row * count + j] = fold_parts(pieces[j], len(pieces[j]), 1, maxima >> j & 1)


@compiled
def settle_touched(of_row, t, scalars, count):
    """The rows within the slices that a gradient touches."""
    touched = rows_of(t)
    at, ranges = view(touched[AT], touched[COUNT], INTEGERS), touched[LENGTH] // t.columns
    sums = view(t.work, count * (1 + len(at) * ranges), DOUBLE)[count:]
    for k in range(len(at)):
        for r in range(ranges):
            of_row(t, scalars, float(t.columns), sums[(k * ranges + r) * count :], at[k] * ranges + r)


@compiled
def measure(
    tensors, loop, change, run, count, maxima, by_rows, columns, groups, scalars, scale, stages, like, first, last
):
    scratch, terms = np.empty((4, BLOCK), like.dtype), np.empty((count, BLOCK))
    for i in tensors_in(tensors, first, last):
        t = tensors[i]
        begin, end = span(t, like, first, last)
        group, row, factor = groups[t.group], scalars[t.group], scale * t.scale
        if begin < end and is_lazy(t):
            measure_touched(loop, change, run, t, group, row, factor, stages, begin, end, scratch, terms, maxima)
        elif begin < end and by_rows:
            measure_rows(loop, change, run, t, group, row, factor, stages, begin, end, scratch, terms, maxima, columns)
        elif begin < end:
            measure_blocks(loop, change, run, t, group, row, factor, stages, begin, end, scratch, terms, maxima)


@compiled
def settle_rows(of_range, t, scalars, ranges, rows, parts, sums, maxima):
    """Ranges of so many whole rows."""
    count = len(sums)
    for i in range(ranges):
        for k in range(count):
            sums[k] = fold_parts(parts[i * rows * count + k :], rows, count, maxima >> k & 1)
        of_range(t, scalars, float(rows * t.columns), sums, i)


@compiled
def settle(tensors, scalars, count, maxima, by_rows, shape, of_row, of_column, of_matrix, of_unit, of_tensor):
    """Settles all of a phase but the list; shape: bit e is set if ranges of extent e are settled."""
    sums = np.zeros(count)
    for i in range(len(tensors)):
        t = tensors[i]
        if t.n == 0:
            continue
        row = scalars[t.group]
        if is_lazy(t):
            settle_touched(of_row, t, row, count)
            continue
        matrices, per = t.n // (t.rows * t.columns), (t.rows + ROW_CHUNK - 1) // ROW_CHUNK
        parts = matrices * t.rows if by_rows else (t.n + BLOCK - 1) // BLOCK
        size = count * (1 + parts + (matrices * per * t.columns if shape >> COLUMN & 1 else 0))
        work = view(t.work, size, DOUBLE)
        if shape >> ROW & 1:
            for r in range(parts):
                of_row(t, row, float(t.columns), work[count * (1 + r) :], r)
        if shape >> COLUMN & 1:
            chunks = work[count * (1 + parts) :]
            for c in range(matrices * t.columns):
                matrix, column = c // t.columns, c % t.columns
                for k in range(count):
                    at = (matrix * per * count + k) * t.columns + column
                    sums[k] = fold_parts(chunks[at:], per, count * t.columns, maxima >> k & 1)
                of_column(t, row, float(t.rows), sums, c)
        if shape >> MATRIX & 1:
            settle_rows(of_matrix, t, row, matrices, t.rows, work[count:], sums, maxima)
        if shape >> UNIT & 1:
            settle_rows(of_unit, t, row, t.n // t.unit_length, t.unit_length // t.columns, work[count:], sums, maxima)
        totals = count if (shape >> TENSOR | shape >> LIST) & 1 else 0  # others nobody looks at
        for k in range(totals):
            work[k] = fold_parts(work[count + k :], parts, count, maxima >> k & 1)
        if shape >> TENSOR & 1:
            of_tensor(t, row, float(t.n), work, 0)


@compiled
def settle_list(tensors, scalars, count, maxima, of_list):
    """Settles the list, by the sums of its tensors, with the scalars of the first one's group."""
    sums, elements = np.zeros(count), 0.0
    for k in range(count):
        found = np.array([view(tensors[i].work, count, DOUBLE)[k] for i in range(len(tensors))])
        sums[k] = fold_parts(found, len(tensors), 1, maxima >> k & 1)
    for i in range(len(tensors)):
        elements += float(tensors[i].n)
    of_list(tensors[0], scalars[tensors[0].group], elements, sums, 0)
