"""What a rule or a stage measures and settles, compiled: the functions that phases.py calls."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import from_dtype, int64, void

from fastupdate.engines import records
from fastupdate.engines.python.compiling import c_function, defined, inlined
from fastupdate.engines.python.formula import SUBSTITUTES, Formula, compile_formula
from fastupdate.engines.python.stages import arguments, formula, slot
from fastupdate.engines.python.tiles import DOUBLE, cast, view
from fastupdate.rules.rule import EXTENTS, Extent, Rule
from fastupdate.stages import Stage

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
    return c_function(_measuring(dtype), defined(source, scope)["loop"])


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
    return c_function(_changing(dtype), defined(source, scope)["loop"])


def _no_change(t: Any, scalars: Any, scale: Any, begin: Any, g: Any, p: Any, out: Any) -> None:
    pass


@cache
def no_change(dtype: Any) -> Any:
    """The same where nothing measures a change."""
    return c_function(_changing(dtype), _no_change)


_SETTLE = """
def settle(t, scalars, n, sums, i):
    s = Scalars({scalars})
    {results} = rule_settle(flags, s, n, {values})
"""


@cache
def settle_function(rule: Rule, mask: int, number: int, extent: Extent) -> Any:
    """What settles range i of an extent; nothing, if none is summed over it in this phase."""
    phase = rule.phases[number]
    if extent not in phase.settles:
        return settles_nothing()
    formula = Formula(rule, mask, np.dtype(np.float64))
    own = [f"view(t.slot[{rule.states.index(name)}], i + 1, DOUBLE)[i]" for name in rule.states_of(extent)]
    source = _SETTLE.format(
        scalars=formula.scalars,
        results=", ".join(own),
        values=", ".join([*(f"sums[{k}]" for k in phase.summed(extent)), *own]),
    )
    scope = formula.scope | {"rule_settle": formula.compiled(phase.settles[extent])}
    return c_function(_settling(), defined(source, scope)["settle"])


def _settling() -> Any:
    """The type of what settles a range."""
    f8 = from_dtype(np.dtype(np.float64))
    return void(from_dtype(records.TENSOR), f8[::1], f8, f8[::1], int64)


def _nothing(t: Any, scalars: Any, n: Any, sums: Any, i: Any) -> None:
    pass


@cache
def settles_nothing() -> Any:
    """The same for ranges of which nothing is summed."""
    return c_function(_settling(), _nothing)


_MEASURE_STAGE = """
def loop(t, group, scalars, scale, begin, g, p, x, terms):
    s = {name}_numbers({numbers})
    for i in range(len(p)):
        {terms} = measure({arguments})
"""


@cache
def measure_stage(stage: Stage, dtype: Any) -> Any:
    """What a stage measures of a tile, as a C function."""
    given = {"g": "g[i]", "p": "p[i]", "change": "x[i]"}
    source = _MEASURE_STAGE.format(
        name=stage.name,
        terms=", ".join(f"terms[{k}, i]" for k in range(len(stage.sums))),
        numbers=", ".join(f"cast(group.{number}, p)" for number in stage.numbers),
        arguments=arguments(stage, stage.measure, given),
    )
    scope = {**formula(stage, dtype, inlined, SUBSTITUTES), "cast": cast}
    scope["measure"] = compile_formula(stage.measure, dtype)
    return c_function(_measuring(dtype), defined(source, scope)["loop"])


_SETTLE_STAGE = """
def settle(t, scalars, n, sums, i):
    if t.slot[{slot}]:
        s = {name}_numbers({numbers})
        own = view(t.slot[{slot}], i + 1, DOUBLE)
        own[i] = settle_own(s, n, {sums}, own[i])
"""


@cache
def settle_stage(stage: Stage, extent: Extent) -> Any:
    """What settles range i of an extent, as `settle_function`; scalars: the numbers of the stage."""
    if extent != stage.state.per:
        return settles_nothing()
    numbers = ", ".join(f"scalars[{k}]" for k in range(len(stage.numbers)))
    scope = {**formula(stage, np.dtype(np.float64), inlined, SUBSTITUTES), "view": view, "DOUBLE": DOUBLE}
    scope["settle_own"] = compile_formula(stage.settle, np.dtype(np.float64))
    sums = ", ".join(f"sums[{k}]" for k in range(len(stage.sums)))
    source = _SETTLE_STAGE.format(slot=slot(stage), name=stage.name, numbers=numbers, sums=sums)
    return c_function(_settling(), defined(source, scope)["settle"])


class Measured(NamedTuple):
    """A phase of a rule, or a stage that measures, as the loops of phases.py take it.

    of        its number, or the stage
    measures  whether it looks at elements; else numbers that go on from step to step are settled
    terms     how many sums there are, of which those of the bits of `maxima` are maxima
    by_rows   it goes through a tensor row by row; else block by block
    columns   it sums over columns
    shape     bit e is set if ranges of extent e are settled
    settles   compiled, by extent but for elements
    """

    of: int | Stage
    measures: bool
    terms: int
    maxima: int
    by_rows: bool
    columns: bool
    shape: int
    settles: tuple[Any, ...]

    @property
    def by_list(self) -> bool:
        """Whether the whole list is settled."""
        return bool(self.shape >> EXTENTS.index("list") & 1)


@cache
def of_stage(stage: Stage) -> Measured:
    """What a stage measures."""
    settles = tuple(settle_stage(stage, extent) for extent in EXTENTS[1:])
    return Measured(stage, True, len(stage.sums), 0, stage.by_rows, False, 1 << EXTENTS.index(stage.state.per), settles)


def of_phase(rule: Rule, mask: int, number: int) -> Measured:
    """What a phase measures."""
    phase = rule.phases[number]
    maxima, columns = sum(1 << k for k in phase.maxima), bool(phase.summed("column"))
    settles = tuple(settle_function(rule, mask, number, extent) for extent in EXTENTS[1:])
    measures, count = phase.measure is not None, len(phase.sums)
    return Measured(number, measures, count, maxima, phase.by_rows, columns, phase.settled, settles)


def loops(of: int | Stage, rule: Rule, mask: int, dtype: Any) -> tuple[Any, Any]:
    """What measures a tile, and what gives the change that is measured, as C functions."""
    if isinstance(of, int):
        return measure_loop(rule, mask, of, dtype), no_change(dtype)
    return measure_stage(of, dtype), change_loop(rule, mask, dtype) if of.place == "change" else no_change(dtype)
