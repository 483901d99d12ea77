"""The stages around a rule as machine code, from the text of fastupdate/stages/table.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from inspect import signature
from typing import Any

from numba import boolean, from_dtype, int64, void

from fastupdate.engines import records
from fastupdate.engines.python import tiles
from fastupdate.engines.python.compiling import c_function, defined, inlined
from fastupdate.engines.python.formula import SUBSTITUTES, compile_formula, spread
from fastupdate.rules.extent import EXTENTS
from fastupdate.stages import PLACES, STAGES, Inputs, Stage

_FUNCTION = """
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


@cache
def stage_loops(dtype: Any) -> Any:
    """What runs the stages of a place over a tile, as a C function; `keep`: and notes what they keep in their arrays.

    x is what they change: g, p, or the change of p.
    """
    scope: dict[str, Any] = {"state_tile": tiles.state_tile, "cast": tiles.cast, "spread": spread}
    source = _FUNCTION
    for stage in STAGES:
        scope |= formula(stage, dtype, inlined, SUBSTITUTES)
        source += _STAGE.format(
            place=PLACES.index(stage.place),
            bit=stage.bit,
            has=f" and t.slot[{slot(stage)}]" if stage.array else "",
            name=stage.name,
            numbers=", ".join(f"cast(group.{number}, p)" for number in stage.numbers),
            array=array_of(stage),
            result=result(stage, "x[i]", "after"),
            arguments=arguments(stage, stage.element, {"g": "g[i]", "p": "p[i]", "change": "x[i]", "own": "own[i]"}),
        ) + (_KEPT if has_elements(stage) else "")
    return c_function(_signature(dtype), defined(source, scope)["run"])


def _signature(dtype: Any) -> Any:
    tile = from_dtype(dtype)[::1]
    return void(from_dtype(records.TENSOR), from_dtype(records.GROUP), int64, int64, boolean, int64, tile, tile, tile)


def _nothing(t: Any, group: Any, stages: Any, place: Any, keep: Any, begin: Any, g: Any, p: Any, x: Any) -> None:
    pass


@cache
def no_stages(dtype: Any) -> Any:
    """The same where no stage works, which takes no time to compile."""
    return c_function(_signature(dtype), _nothing)


def formula(stage: Stage, dtype: Any, compiler: Callable[..., Any], substitutes: Mapping[Any, Any]) -> dict[str, Any]:
    """A stage's function of an element and the type of its numbers, by the names that sources have for them."""
    return {
        stage.name: compile_formula(stage.element, dtype, compiler, substitutes),
        f"{stage.name}_numbers": type(stage.prepare(Inputs())),
    }


def has_elements(stage: Stage) -> bool:
    """Whether its array is shaped like the parameter."""
    return stage.array is not None and stage.state.per == "element"


def array_of(stage: Stage) -> str:
    """The part of its array that belongs to a tile; or its numbers, spread over the tile."""
    if stage.array and not has_elements(stage):
        return f"spread(t, {EXTENTS.index(stage.state.per)}, t.slot[{slot(stage)}], begin, p)"
    return f"state_tile(t.slot[{slot(stage)}], begin, p)" if stage.array else "p"


def slot(stage: Stage) -> int:
    """Where its array is found."""
    return records.MAX_STATES + records.ROLES.index(stage.array or "")


def arguments(stage: Stage, function: Any, given: Mapping[str, str]) -> str:
    """What a function of a stage is called with; given: the places of g, p, change and its own array."""
    names = [*signature(function).parameters][1:]
    return ", ".join(["s", *(given["own" if name == stage.array else name] for name in names)])


def result(stage: Stage, changed: str, kept: str) -> str:
    """Where the results of a stage's function go."""
    if stage.place == "copy":
        return kept
    return f"{changed}, {kept}" if has_elements(stage) else changed
