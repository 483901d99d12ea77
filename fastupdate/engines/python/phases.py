"""csrc/cpu/phases.h for Numba: elements are measured, in the same order, and ranges settled."""

from __future__ import annotations

import numpy as np

from fastupdate.engines import records
from fastupdate.engines.python.compiling import compiled
from fastupdate.engines.python.formula import COLUMN, MATRIX, ROW, TENSOR, UNIT, find_states, start
from fastupdate.engines.python.gradients import AT, COUNT, INTEGERS, LENGTH, gradient_tile, is_lazy, rows_of, sum_row
from fastupdate.engines.python.kernels import span, tensors_in
from fastupdate.engines.python.sums import BLOCK, LANES, fold_lanes, push, total
from fastupdate.engines.python.tiles import CHANGE, DOUBLE, condition_tile, read_tile, view
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
def measure_tile(work, t, group, scale, stages, begin, n, scratch, terms):
    gradient_tile(t, begin, scratch[0, :n])
    measure_gradient(work, t, group, scale, stages, begin, n, scratch, terms)


@compiled
def measure_gradient(work, t, group, scale, stages, begin, n, scratch, terms):
    """The first of the tiles in scratch is the raw gradient. work: as `measure` makes it.

    Where the change of p is measured, the rule moves copies of its states; a stage has the change for its only one.
    """
    loop, measured, run, extents, found, changes, by_rule, scalars, numbers = work
    raw, p, g, x, nothing = scratch[0, :n], scratch[1, :n], scratch[2, :n], scratch[3, :n], scratch[4, :n]
    read_tile(t.p, t.p_layout, begin, p)
    condition_tile(run, t, group, scale, stages, False, begin, raw, p, g)
    if changes or by_rule:
        find_states(t, extents, changes, begin, scratch[5:, :n], found)
    if changes:
        nothing[:] = -0.0
        loop(start(scalars[t.group]), 1.0, n, start(g), start(p), start(nothing), start(x), start(found), begin)
        run(t, group, stages, CHANGE, False, begin, g, p, x)
    if not by_rule:
        found[0] = start(x)
    measured(start(numbers[t.group]), 1.0, n, start(g), start(p), start(found), begin, start(terms))


@compiled
def measure_blocks(work, t, group, scale, stages, begin, end, scratch, terms, maxima):
    count = len(terms)
    parts = view(t.work, count * (1 + (t.n + BLOCK - 1) // BLOCK), DOUBLE)[count:]
    for i in range(begin, end, BLOCK):
        n = min(BLOCK, end - i)
        measure_tile(work, t, group, scale, stages, i, n, scratch, terms)
        for k in range(count):
            parts[i // BLOCK * count + k] = sum_of(terms[k, :n], maxima >> k & 1)


@compiled
def measure_row(work, t, group, scale, stages, row, scratch, terms, maxima, below, out):
    """One row: its sums go to `out`, and each of its elements is joined with what its column has come to."""
    count, width = len(terms), t.columns
    pieces = np.empty((count, (width + BLOCK - 1) // BLOCK))
    for number, i in enumerate(range(0, width, BLOCK)):
        n = min(BLOCK, width - i)
        measure_tile(work, t, group, scale, stages, row * width + i, n, scratch, terms)
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
def measure_rows(work, t, group, scale, stages, begin, end, scratch, terms, maxima, columns):
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
                measure_row(work, t, group, scale, stages, row, scratch, terms, maxima, below, out)


@compiled
def measure_touched(work, t, group, scale, stages, begin, end, scratch, terms, maxima):
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
            measure_gradient(work, t, group, scale, stages, begin, n, scratch, terms)
            for j in range(count):
                pieces[j, number] = sum_of(terms[j, :n], maxima >> j & 1)
        for j in range(count):
            sums[row * count + j] = fold_parts(pieces[j], len(pieces[j]), 1, maxima >> j & 1)


@compiled
def measure(
    tensors, loop, extents, measured, changes, by_rule, run, count, maxima, by_rows, columns, groups, scalars, numbers,
    scale, stages, like, first, last,
):  # fmt: skip
    """measured: a phase of the rule, or a stage for its numbers, which may need the change that the rule would make."""
    found = np.zeros(records.MAX_STATES, np.uint64)
    work = loop, measured, run, extents, found, changes, by_rule, scalars, numbers
    scratch, terms = np.empty((5 + len(extents), BLOCK), like.dtype), np.empty((count, BLOCK))
    for i in tensors_in(tensors, first, last):
        t = tensors[i]
        begin, end = span(t, like, first, last)
        group, factor = groups[t.group], scale * t.scale
        if begin < end and is_lazy(t):
            measure_touched(work, t, group, factor, stages, begin, end, scratch, terms, maxima)
        elif begin < end and by_rows:
            measure_rows(work, t, group, factor, stages, begin, end, scratch, terms, maxima, columns)
        elif begin < end:
            measure_blocks(work, t, group, factor, stages, begin, end, scratch, terms, maxima)


@compiled
def slots(t, first, found):
    """found ← where a tensor's numbers of ranges are, from one on."""
    for k in range(len(found)):
        found[k] = np.uint64(t.slot[k]) + np.uint64(8 * first if t.slot[k] else 0)
    return start(found)


@compiled
def settle_touched(of_row, t, scalars, count, found):
    """The rows within the slices that a gradient touches."""
    touched = rows_of(t)
    at, ranges = view(touched[AT], touched[COUNT], INTEGERS), touched[LENGTH] // t.columns
    sums = view(t.work, count * (1 + len(at) * ranges), DOUBLE)[count:]
    for k in range(len(at)):
        rows = slots(t, at[k] * ranges, found)
        of_row(start(scalars), ranges, float(t.columns), start(sums[k * ranges * count :]), rows)


@compiled
def settle_rows(of_range, t, scalars, ranges, rows, parts, count, maxima, found):
    """Ranges of so many whole rows."""
    sums = np.empty(ranges * count)
    for i in range(ranges):
        for k in range(count):
            sums[i * count + k] = fold_parts(parts[i * rows * count + k :], rows, count, maxima >> k & 1)
    of_range(start(scalars), ranges, float(rows * t.columns), start(sums), slots(t, 0, found))


@compiled
def settle_columns(of_column, t, scalars, chunks, count, maxima, found):
    matrices, per = t.n // (t.rows * t.columns), (t.rows + ROW_CHUNK - 1) // ROW_CHUNK
    sums = np.empty(matrices * t.columns * count)
    for c in range(matrices * t.columns):
        matrix, column = c // t.columns, c % t.columns
        for k in range(count):
            at = (matrix * per * count + k) * t.columns + column
            sums[c * count + k] = fold_parts(chunks[at:], per, count * t.columns, maxima >> k & 1)
    of_column(start(scalars), matrices * t.columns, float(t.rows), start(sums), slots(t, 0, found))


@compiled
def settle(tensors, scalars, count, maxima, by_rows, shape, of_row, of_column, of_matrix, of_unit, of_tensor):
    """Settles all of a phase but the list; shape: bit e is set if ranges of extent e are settled."""
    found = np.zeros(records.SLOTS, np.uint64)
    for i in range(len(tensors)):
        t = tensors[i]
        if t.n == 0:
            continue
        row = scalars[t.group]
        if is_lazy(t):
            settle_touched(of_row, t, row, count, found)
            continue
        matrices, per = t.n // (t.rows * t.columns), (t.rows + ROW_CHUNK - 1) // ROW_CHUNK
        parts = matrices * t.rows if by_rows else (t.n + BLOCK - 1) // BLOCK
        size = count * (1 + parts + (matrices * per * t.columns if shape >> COLUMN & 1 else 0))
        work = view(t.work, size, DOUBLE)
        sums = work[count:]
        if shape >> ROW & 1:
            of_row(start(row), parts, float(t.columns), start(sums), slots(t, 0, found))
        if shape >> COLUMN & 1:
            settle_columns(of_column, t, row, sums[count * parts :], count, maxima, found)
        if shape >> MATRIX & 1:
            settle_rows(of_matrix, t, row, matrices, t.rows, sums, count, maxima, found)
        if shape >> UNIT & 1:
            rows = t.unit_length // t.columns
            settle_rows(of_unit, t, row, t.n // t.unit_length, rows, sums, count, maxima, found)
        for k in range(count):
            work[k] = fold_parts(sums[k:], parts, count, maxima >> k & 1)
        if shape >> TENSOR & 1:
            of_tensor(start(row), 1, float(t.n), start(work), slots(t, 0, found))


@compiled
def settle_list(tensors, scalars, count, maxima, of_list):
    """Settles the list, by the sums of its tensors, with the scalars of the first one's group."""
    found, sums, elements = np.zeros(records.SLOTS, np.uint64), np.zeros(count), 0.0
    for k in range(count):
        each = np.array([view(tensors[i].work, count, DOUBLE)[k] for i in range(len(tensors))])
        sums[k] = fold_parts(each, len(tensors), 1, maxima >> k & 1)
    for i in range(len(tensors)):
        elements += float(tensors[i].n)
    first = tensors[0]
    of_list(start(scalars[first.group]), 1, elements, start(sums), slots(first, 0, found))
