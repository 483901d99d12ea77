"""Loops around the functions of rules and stages over a tile, and what settles a range: written out, for they differ in
their states and numbers. One text for CPUs and for devices."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
from numba import boolean, from_dtype, int64, void

from fastupdate.engines import records
from fastupdate.engines.python.compiling import defined
from fastupdate.engines.python.formula import Formula, Target, engine_words
from fastupdate.engines.python.tiles import GROUP, TENSOR
from fastupdate.rules.rule import EXTENTS, Extent, Rule, Side
from fastupdate.stages import PLACES, STAGES, Inputs, Stage

DOUBLE = np.dtype(np.float64)
_TENSOR, _GROUP, _F8 = from_dtype(TENSOR), from_dtype(GROUP), from_dtype(DOUBLE)
_SETTLING = void(_TENSOR, _F8[::1], _F8, _F8[::1], int64)  # the type of what settles a range

# out[k, i] ← the k-th result for element i; keep: and the new states take the place of the old ones.
_LOOP = """
def loop(t, group, scalars, begin, g, p, x, out, keep):
    {arrays}
    s = Numbers({numbers})
    absent = cast(0.0, p)
    for i in range(len(p)):
        {results} = function({arguments})
        if keep:
            {kept}
"""
_SETTLE = """
def settle(t, scalars, n, sums, i):
    if {there}:
        s = Numbers({numbers})
        {results} = function({arguments})
"""

_RUN = """
def run(t, group, stages, place, keep, begin, g, p, x):
"""
_STAGE = """
    if place == {place} and stages & {bit}{has}:
        s = {name}_numbers({numbers})
        own = {array}
        for i in range(len(p)):
            {result} = {name}({arguments})
"""
_KEPT = """            if keep:
                own[i] = after
"""


def _looping(dtype: Any, out: Any) -> Any:
    """The type of a loop; of what is written to `out`."""
    x = from_dtype(dtype)[::1]
    return void(_TENSOR, _GROUP, x, int64, x, x, x, from_dtype(out)[:, ::1], boolean)


def _running(dtype: Any) -> Any:
    """The type of what runs the stages of a place."""
    x = from_dtype(dtype)[::1]
    return void(_TENSOR, _GROUP, int64, int64, boolean, int64, x, x, x)


def _made(target: Target, source: str, scope: dict[str, Any], types: Any) -> Any:
    """The function of a source."""
    name = source.split("(", maxsplit=1)[0].split()[1]
    return target.loop(defined(source, engine_words(target) | scope)[name], types)


@cache
def rule_loop(target: Target, rule: Rule, mask: int, dtype: Any, number: int | None = None) -> Any:
    """A rule's loop: of its `update`, or of what it measures in a phase."""
    formula, states = Formula(rule, mask, dtype, target=target), rule.states_of("element")
    kept = [name for name in states if name in formula.kept]
    function = rule.update if number is None else rule.phases[number].measure
    assert function is not None
    outs = [f"out[{k}, i]" for k in range(1 if number is None else len(rule.phases[number].sums))]
    results = ", ".join([*outs, *(f"new_{name}" for name in states)]) + ("," if number is None else "")
    values = [
        _number(k, rule.extents[name]) if name in formula.kept and name not in states else value
        for k, (name, value) in enumerate(zip(rule.states, formula.values, strict=True))
    ]
    source = _LOOP.format(
        arrays="; ".join(f"{name}_ = {_tile(rule.states.index(name))}" for name in kept) or "pass",
        numbers=formula.scalars,
        results=results,
        arguments=", ".join(["flags", "s", "g[i]", "p[i]", *values]),
        kept="; ".join(f"{name}_[i] = new_{name}" for name in kept) or "pass",
    )
    scope = {**formula.scope, "Numbers": formula.scalars_type, "function": formula.compiled(function)}
    return _made(target, source, scope, _looping(dtype, dtype if number is None else DOUBLE))


def _tile(slot: int) -> str:
    """The part of an array that belongs to a tile."""
    return f"state_tile(t.slot[{slot}], begin, p)"


def _number(slot: int, extent: Extent | Side) -> str:
    """The number of element i's range."""
    return f"number_of(t, {EXTENTS.index(extent)}, t.slot[{slot}], begin + i, p)"


@cache
def rule_settles(target: Target, rule: Rule, mask: int, number: int, extent: Extent) -> Any:
    """What settles a range of an extent; nothing, if none is summed over it in this phase."""
    phase, formula = rule.phases[number], Formula(rule, mask, DOUBLE, target=target)
    if extent not in phase.settles:
        return nothing(target, _SETTLING)
    own = [_settled(rule.states.index(name)) for name in rule.states_of(extent)]
    source = _SETTLE.format(
        there=True,
        numbers=formula.scalars,
        results=", ".join(own),
        arguments=", ".join(["flags", "s", "n", *(f"sums[{k}]" for k in phase.summed(extent)), *own]),
    )
    scope = {**formula.scope, "Numbers": formula.scalars_type, "function": formula.compiled(phase.settles[extent])}
    return _made(target, source, scope, _SETTLING)


def _settled(slot: int) -> str:
    """The number of range i."""
    return f"view(t.slot[{slot}], i + 1, np.float64)[i]"


@cache
def stage_measure(target: Target, stage: Stage, dtype: Any) -> Any:
    """What a stage measures."""
    source = _LOOP.format(
        arrays="pass",
        numbers=_numbers(stage),
        results=", ".join(f"out[{k}, i]" for k in range(len(stage.sums))),
        arguments=_arguments(stage, stage.measure, {"g": "g[i]", "p": "p[i]", "change": "x[i]"}),
        kept="pass",
    )
    scope = {"Numbers": _numbers_type(stage), "function": target.formula(stage.measure, dtype)}
    return _made(target, source, scope, _looping(dtype, DOUBLE))


@cache
def stage_settles(target: Target, stage: Stage, extent: Extent) -> Any:
    """As `rule_settles`; scalars: the numbers of the stage."""
    if extent != stage.state.per:
        return nothing(target, _SETTLING)
    own = _settled(slot(stage))
    source = _SETTLE.format(
        there=f"t.slot[{slot(stage)}]",
        numbers=", ".join(f"scalars[{k}]" for k in range(len(stage.numbers))),
        results=own,
        arguments=", ".join(["s", "n", *(f"sums[{k}]" for k in range(len(stage.sums))), own]),
    )
    scope = {"Numbers": _numbers_type(stage), "function": target.formula(stage.settle, DOUBLE)}
    return _made(target, source, scope, _SETTLING)


@cache
def stage_loops(target: Target, dtype: Any, work: bool = True) -> Any:
    """What runs the stages of a place over a tile; `keep`: and notes what they keep in their arrays.

    x is what they change: g, p, or the change of p. work: whether any of them has something to do
    """
    if not work:
        return nothing(target, _running(dtype))
    scope: dict[str, Any] = {}
    source = _RUN.lstrip()
    for stage in STAGES:
        elementwise = stage.array is not None and stage.state.per == "element"
        own = "own[i]" if elementwise or not stage.array else _number(slot(stage), stage.state.per)
        scope |= {stage.name: target.formula(stage.element, dtype), f"{stage.name}_numbers": _numbers_type(stage)}
        result = "after" if stage.place == "copy" else "x[i], after" if elementwise else "x[i]"
        source += _STAGE.format(
            place=PLACES.index(stage.place),
            bit=stage.bit,
            has=f" and t.slot[{slot(stage)}]" if stage.array else "",
            name=stage.name,
            numbers=_numbers(stage),
            array=_tile(slot(stage)) if elementwise else "p",
            result=result,
            arguments=_arguments(stage, stage.element, {"g": "g[i]", "p": "p[i]", "change": "x[i]", "own": own}),
        ) + (_KEPT if elementwise else "")
    return _made(target, source, scope, _running(dtype))


def _numbers(stage: Stage) -> str:
    return ", ".join(f"cast(group.{number}, p)" for number in stage.numbers)


def _numbers_type(stage: Stage) -> type:
    return type(stage.prepare(Inputs()))


def slot(stage: Stage) -> int:
    """Where its array is found."""
    return records.MAX_STATES + records.ROLES.index(stage.array or "")


def _arguments(stage: Stage, function: Any, given: Mapping[str, str]) -> str:
    """What a function of a stage is called with; given: the places of g, p, change and its own array."""
    names = [*signature(function).parameters][1:]
    return ", ".join(["s", *(given["own" if name == stage.array else name] for name in names)])


@cache
def nothing(target: Target, types: Any) -> Any:
    """In the place of a function where nothing is to be done, which takes no time to compile."""
    arguments = ", ".join(f"x{k}" for k in range(len(types.args)))
    return _made(target, f"def nothing({arguments}): pass", {}, types)


class Measured(NamedTuple):
    """A phase of a rule, or a stage that measures, as kernels take it.

    of        its number, or the stage
    measures  whether it looks at elements; else numbers that go on from step to step are settled
    terms     how many sums there are, of which those of the bits of `maxima` are maxima
    by_rows   it goes through a tensor row by row; else block by block
    columns   it sums over columns
    shape     bit e is set if ranges of extent e are settled
    """

    of: int | Stage
    measures: bool
    terms: int
    maxima: int
    by_rows: bool
    columns: bool
    shape: int

    @property
    def by_list(self) -> bool:
        """Whether the whole list is settled."""
        return bool(self.shape >> EXTENTS.index("list") & 1)

    def loops(self, target: Target, rule: Rule, mask: int, dtype: Any) -> tuple[Any, Any]:
        """What measures a tile, and what gives the change that is measured."""
        if isinstance(self.of, int):
            return rule_loop(target, rule, mask, dtype, self.of), nothing(target, _looping(dtype, dtype))
        changes = self.of.place == "change"
        change = rule_loop(target, rule, mask, dtype) if changes else nothing(target, _looping(dtype, dtype))
        return stage_measure(target, self.of, dtype), change

    def settles(self, target: Target, rule: Rule, mask: int) -> tuple[Any, ...]:
        """What settles ranges, by extent but for elements."""
        if isinstance(self.of, int):
            return tuple(rule_settles(target, rule, mask, self.of, extent) for extent in EXTENTS[1:])
        return tuple(stage_settles(target, self.of, extent) for extent in EXTENTS[1:])


def of_stage(stage: Stage) -> Measured:
    """What a stage measures."""
    return Measured(stage, True, len(stage.sums), 0, stage.by_rows, False, 1 << EXTENTS.index(stage.state.per))


def of_phase(rule: Rule, number: int) -> Measured:
    """What a phase measures."""
    phase = rule.phases[number]
    maxima, columns = sum(1 << k for k in phase.maxima), bool(phase.summed("column"))
    return Measured(number, phase.measure is not None, len(phase.sums), maxima, phase.by_rows, columns, phase.settled)
