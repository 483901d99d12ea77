"""csrc/cpu/phases.h for Numba: elements are measured, in the same order, and ranges settled."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cfunc, from_dtype, int64, void

from fastupdate.engines import records
from fastupdate.engines.python.compiling import exact
from fastupdate.engines.python.formula import (
    COLUMN,
    MATRIX,
    ROW,
    SUBSTITUTES,
    TENSOR,
    UNIT,
    Formula,
    compile_formula,
)
from fastupdate.engines.python.gradients import AT, COUNT, INTEGERS, LENGTH, gradient_tile, is_lazy, rows_of, sum_row
from fastupdate.engines.python.kernels import span, tensors_in
from fastupdate.engines.python.stages import arguments, formula, slot
from fastupdate.engines.python.sums import BLOCK, LANES, fold_lanes, push, total
from fastupdate.engines.python.tiles import CHANGE, DOUBLE, cast, condition_tile, read_tile, view
from fastupdate.rules.rule import EXTENTS, Extent, Rule
from fastupdate.stages import Stage, at

CHANGES = at("change")
ROW_CHUNK = records.ROW_CHUNK


@exact
def larger(a, b):
    """The larger of two numbers; NaN if either is."""
    return b if b > a or b != b else a


@exact
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


@exact
def fold_parts(x, count, pitch, largest):
    """What `count` numbers, `pitch` apart, come to, folded pairwise."""
    if largest:
        return sum_of(x[: count * pitch : pitch], largest)
    level = np.zeros(64)
    for k in range(count):
        push(level, k, x[k * pitch])
    return total(level, count)


@exact
def measure_tile(loop, change, run, t, group, scalars, scale, stages, begin, n, scratch, terms):
    gradient_tile(t, begin, scratch[0, :n])
    measure_gradient(loop, change, run, t, group, scalars, scale, stages, begin, n, scratch, terms)


@exact
def measure_gradient(loop, change, run, t, group, scalars, scale, stages, begin, n, scratch, terms):
    """change: the change of p that the rule would make, for a stage that measures it; else nothing.

    The first of the tiles in scratch is the raw gradient.
    """
    raw, p, g, x = scratch[0, :n], scratch[1, :n], scratch[2, :n], scratch[3, :n]
    read_tile(t.p, t.p_layout, begin, p)
    condition_tile(run, t, group, scale, stages, False, begin, raw, p, g)
    x[:] = g
    change(t, scalars, cast(1.0, p), begin, g, p, x)
    if stages & CHANGES:
        run(t, group, stages, CHANGE, False, begin, g, p, x)
    loop(t, group, scalars, cast(1.0, p), begin, g, p, x, terms)


@exact
def measure_blocks(loop, change, run, t, group, scalars, scale, stages, begin, end, scratch, terms, maxima):
    count = len(terms)
    parts = view(t.work, count * (1 + (t.n + BLOCK - 1) // BLOCK), DOUBLE)[count:]
    for i in range(begin, end, BLOCK):
        n = min(BLOCK, end - i)
        measure_tile(loop, change, run, t, group, scalars, scale, stages, i, n, scratch, terms)
        for k in range(count):
            parts[i // BLOCK * count + k] = sum_of(terms[k, :n], maxima >> k & 1)


@exact
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


@exact
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


@exact
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


@exact
def settle_touched(of_row, t, scalars, count):
    """The rows within the slices that a gradient touches."""
    touched = rows_of(t)
    at, ranges = view(touched[AT], touched[COUNT], INTEGERS), touched[LENGTH] // t.columns
    sums = view(t.work, count * (1 + len(at) * ranges), DOUBLE)[count:]
    for k in range(len(at)):
        for r in range(ranges):
            of_row(t, scalars, float(t.columns), sums[(k * ranges + r) * count :], at[k] * ranges + r)


@exact
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


@exact
def settle_rows(of_range, t, scalars, ranges, rows, parts, sums, maxima):
    """Ranges of so many whole rows."""
    count = len(sums)
    for i in range(ranges):
        for k in range(count):
            sums[k] = fold_parts(parts[i * rows * count + k :], rows, count, maxima >> k & 1)
        of_range(t, scalars, float(rows * t.columns), sums, i)


@exact
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
        for k in range(count):
            work[k] = fold_parts(work[count + k :], parts, count, maxima >> k & 1)
        if shape >> TENSOR & 1:
            of_tensor(t, row, float(t.n), work, 0)


@exact
def settle_list(tensors, scalars, count, maxima, of_list):
    """Settles the list, by the sums of its tensors, with the scalars of the first one's group."""
    sums, elements = np.zeros(count), 0.0
    for k in range(count):
        found = np.array([view(tensors[i].work, count, DOUBLE)[k] for i in range(len(tensors))])
        sums[k] = fold_parts(found, len(tensors), 1, maxima >> k & 1)
    for i in range(len(tensors)):
        elements += float(tensors[i].n)
    of_list(tensors[0], scalars[tensors[0].group], elements, sums, 0)


_MEASURE = """
def loop(t, group, scalars, scale, begin, g, p, x, terms):
    {states}
    s = Scalars({scalars})
    absent = scale - scale
    for i in range(len(p)):
        {results} = measure(flags, s, g[i] * scale, p[i], {values})
"""


@cache
def measure_loop(rule: Rule, mask: int, number: int, dtype: Any) -> Any:
    """A rule's loop over a tile, as a C function."""
    formula, phase = Formula(rule, mask, dtype), rule.phases[number]
    assert phase.measure is not None
    terms = [f"terms[{k}, i]" for k in range(len(phase.sums))]
    results = [*terms, *formula.targets]
    source = _MEASURE.format(
        states=formula.tiles,
        scalars=formula.scalars,
        results=", ".join(results),
        values=", ".join(formula.values),
    )
    scope = formula.scope | {"measure": formula.compiled(phase.measure)}
    exec(source, scope)
    return cfunc(_measuring(dtype), error_model="numpy")(scope["loop"])


def _measuring(dtype: Any) -> Any:
    """The type of what measures a tile."""
    x, records_ = from_dtype(dtype), (from_dtype(records.TENSOR), from_dtype(records.GROUP))
    tile, terms = x[::1], from_dtype(np.dtype(np.float64))[:, ::1]
    return void(*records_, tile, x, int64, tile, tile, tile, terms)


def _changing(dtype: Any) -> Any:
    """The type of what gives the change of a tile."""
    x = from_dtype(dtype)
    return void(from_dtype(records.TENSOR), x[::1], x, int64, x[::1], x[::1], x[::1])


_CHANGE = """
def loop(t, scalars, scale, begin, g, p, out):
    {states}
    s = Scalars({scalars})
    absent = scale - scale
    for i in range(len(p)):
        {results} = update(flags, s, g[i] * scale, p[i], {values})
"""


@cache
def change_loop(rule: Rule, mask: int, dtype: Any) -> Any:
    """The change that a rule makes of a tile, its states left as they are, as a C function."""
    formula = Formula(rule, mask, dtype)
    source = _CHANGE.format(
        states=formula.tiles,
        scalars=formula.scalars,
        results="".join(f"{result}, " for result in ("out[i]", *("_" for _ in formula.targets))),
        values=", ".join(formula.values),
    )
    scope = formula.scope | {"update": formula.compiled(rule.update)}
    exec(source, scope)
    return cfunc(_changing(dtype), error_model="numpy")(scope["loop"])


def _no_change(t: Any, scalars: Any, scale: Any, begin: Any, g: Any, p: Any, out: Any) -> None:
    pass


@cache
def no_change(dtype: Any) -> Any:
    """The same where nothing measures a change."""
    return cfunc(_changing(dtype))(_no_change)


_SETTLE = """
def settle(t, scalars, n, sums, i):
    s = Scalars({scalars})
    {results} = rule_settle(flags, s, n, {values})
"""


@cache
def settle_function(rule: Rule, mask: int, number: int, extent: Extent) -> Any:
    """What settles range i of an extent; nothing, if none is summed over it in this phase."""
    phase = rule.phases[number]
    f8 = from_dtype(np.dtype(np.float64))
    signature = void(from_dtype(records.TENSOR), f8[::1], f8, f8[::1], int64)
    if extent not in phase.settles:
        return cfunc(signature)(_nothing)
    formula = Formula(rule, mask, np.dtype(np.float64))
    own = [f"view(t.slot[{rule.states.index(name)}], i + 1, DOUBLE)[i]" for name in rule.states_of(extent)]
    source = _SETTLE.format(
        scalars=formula.scalars,
        results=", ".join(own),
        values=", ".join([*(f"sums[{k}]" for k in phase.summed(extent)), *own]),
    )
    scope = formula.scope | {"rule_settle": formula.compiled(phase.settles[extent])}
    exec(source, scope)
    return cfunc(signature, error_model="numpy")(scope["settle"])


def _nothing(t: Any, scalars: Any, n: Any, sums: Any, i: Any) -> None:
    pass


_MEASURE_STAGE = """
def loop(t, group, scalars, scale, begin, g, p, x, terms):
    s = {name}_numbers({numbers})
    for i in range(len(p)):
        terms[0, i] = measure({arguments})
"""


@cache
def measure_stage(stage: Stage, dtype: Any) -> Any:
    """What a stage measures of a tile, as a C function."""
    given = {"g": "g[i]", "p": "p[i]", "change": "x[i]"}
    source = _MEASURE_STAGE.format(
        name=stage.name,
        numbers=", ".join(f"cast(group.{number}, p)" for number in stage.numbers),
        arguments=arguments(stage, stage.measure, given),
    )
    scope = {**formula(stage, dtype, exact, SUBSTITUTES), "cast": cast}
    scope["measure"] = compile_formula(stage.measure, dtype)
    exec(source, scope)
    return cfunc(_measuring(dtype), error_model="numpy")(scope["loop"])


_SETTLE_STAGE = """
def settle(t, scalars, n, sums, i):
    if t.slot[{slot}]:
        s = {name}_numbers({numbers})
        own = view(t.slot[{slot}], i + 1, DOUBLE)
        own[i] = settle_own(s, n, sums[0], own[i])
"""


@cache
def settle_stage(stage: Stage, extent: Extent) -> Any:
    """What settles range i of an extent, as `settle_function`; scalars: the numbers of the stage."""
    f8 = from_dtype(np.dtype(np.float64))
    signature = void(from_dtype(records.TENSOR), f8[::1], f8, f8[::1], int64)
    if extent != stage.state.per:
        return cfunc(signature)(_nothing)
    numbers = ", ".join(f"scalars[{k}]" for k in range(len(stage.numbers)))
    scope = {**formula(stage, np.dtype(np.float64), exact, SUBSTITUTES), "view": view, "DOUBLE": DOUBLE}
    scope["settle_own"] = compile_formula(stage.settle, np.dtype(np.float64))
    exec(_SETTLE_STAGE.format(slot=slot(stage), name=stage.name, numbers=numbers), scope)
    return cfunc(signature, error_model="numpy")(scope["settle"])


def compiled_stage(stage: Stage, rule: Rule, mask: int, dtypes: list[Any]) -> dict[str, Any]:
    """What `NumbaPlan` needs of a stage that measures, as of a phase."""
    loops = [
        (measure_stage(stage, dtype), change_loop(rule, mask, dtype) if stage.place == "change" else no_change(dtype))
        for dtype in dtypes
    ]
    return {
        "count": 1,
        "maxima": 0,
        "by_rows": stage.by_rows,
        "columns": False,
        "shape": 1 << EXTENTS.index(stage.state.per),
        "loops": loops,
        "settles": [settle_stage(stage, extent) for extent in EXTENTS[1:]],
    }


def compiled_phase(rule: Rule, mask: int, number: int, dtypes: list[Any]) -> dict[str, Any]:
    """What `NumbaPlan.measure` needs of one phase."""
    phase = rule.phases[number]
    return {
        "count": len(phase.sums),
        "maxima": sum(1 << k for k in phase.maxima),
        "by_rows": phase.by_rows,
        "columns": bool(phase.summed("column")),
        "shape": phase.settled,
        "loops": [(measure_loop(rule, mask, number, dtype), no_change(dtype)) for dtype in dtypes if phase.measure],
        "settles": [settle_function(rule, mask, number, extent) for extent in EXTENTS[1:]],
    }
