"""The functions of rules and stages for single elements in device memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastupdate.engines.python import cuda_driver as driver
from fastupdate.engines.python import cuda_kernels as kernels
from fastupdate.engines.python.formula import SUBSTITUTES as ON_NUMBERS
from fastupdate.engines.python.formula import Formula, compile_formula, in_float64, range_of
from fastupdate.engines.python.stages import arguments, formula, has_elements, result, slot
from fastupdate.rules import scalar
from fastupdate.rules.rule import EXTENTS, Extent, Phase, Side
from fastupdate.stages import STAGES, Stage

# What rules call that numba-cuda lacks.
SUBSTITUTES = {
    **ON_NUMBERS,
    scalar.sqrt: driver.square_root,
    scalar.maximum: kernels.maximum,
    scalar.absolute: abs,
    scalar.positive_part: kernels.positive_part,
}
SUBSTITUTES.update(in_float64(kernels.device, SUBSTITUTES))

_SCOPE: dict[str, Any] = {
    "load": driver.load,
    "store": driver.store,
    "cast": kernels.cast,
    "item_size": kernels.item_size,
    "range_of": kernels.device(range_of.py_func),
    "np": np,
    "DOUBLE": np.float64(0.0),
}


def _place(slot: int) -> str:
    """Where element i of an array is that is shaped like the parameter."""
    return f"t.slot[{slot}] + i * item_size(t)"


def _value(slot: int, extent: Extent | Side) -> str:
    """A state, as the functions of elements see it."""
    if extent == "element":
        return f"load({_place(slot)}, p)"
    return f"cast(load(t.slot[{slot}] + 8 * range_of(t, {EXTENTS.index(extent)}, i), DOUBLE), p)"


def _defined(source: str, name: str, scope: dict[str, Any]) -> Any:
    """The function of this name in a source, for a device."""
    scope = _SCOPE | scope
    exec(source, scope)
    return kernels.device(scope[name])


_ELEMENT = """
def element(t, group, scalars, i, g, p, x):
    s, absent = Scalars({scalars}), cast(0.0, p)
    {results} = function(flags, s, g, p, {values})
    {stores}
    return {found}
"""


def _element(
    formula: Formula, function: Callable[..., Any], results: str, found: str, stored: Sequence[str] = ()
) -> Any:
    """A function of a rule for element i, from its gradient and weight; the states of these names are stored."""
    rule = formula.rule
    source = _ELEMENT.format(
        scalars=formula.scalars,
        results=results,
        found=found,
        values=", ".join(
            _value(k, rule.extents[name]) if name in formula.kept else "absent" for k, name in enumerate(rule.states)
        ),
        stores="; ".join(f"store({_place(rule.states.index(name))}, {name})" for name in stored) or "pass",
    )
    function = compile_formula(function, formula.dtype, kernels.device, SUBSTITUTES)
    scope = {"Scalars": formula.scalars_type, "flags": formula.flag_tuple, "function": function}
    return _defined(source, "element", scope)


def rule_update(formula: Formula, keep: bool = True) -> Any:
    """The change of p that a rule makes; keep: and its new states."""
    states = formula.rule.states_of("element")
    results = "".join(f"{name}, " for name in ("delta", *states))
    stored = [name for name in states if keep and name in formula.kept]
    return _element(formula, formula.rule.update, results, "delta", stored)


def rule_terms(formula: Formula, phase: Phase) -> Any:
    """What an element adds to the sums of a phase, with the new states."""
    assert phase.measure is not None
    states, terms = formula.rule.states_of("element"), [f"term_{k}" for k in range(len(phase.sums))]
    stored = [name for name in states if name in formula.kept]
    return _element(formula, phase.measure, ", ".join([*terms, *states]), _float64(terms), stored)


def _float64(terms: Sequence[str]) -> str:
    """A tuple; of a rule that sums nothing, with a zero in it, for a device can look nothing up in an empty one."""
    return "".join(["(", *(f"np.float64({term}), " for term in terms or ["0.0"]), ")"])


def _numbers(stage: Stage) -> str:
    return ", ".join(f"cast(group.{number}, p)" for number in stage.numbers)


CHANGED = {"gradient": "g", "before": "p", "change": "change", "after": "p", "copy": ""}  # what x stands for


def stage_chain(place: str, dtype: Any, keep: bool = True) -> Any:
    """What the stages of a place make of an element; keep: and note in their arrays."""
    scope: dict[str, Any] = {}
    source = "def run(t, group, stages, i, g, p, x):\n"
    for stage in (stage for stage in STAGES if stage.place == place):
        scope |= formula(stage, dtype, kernels.device, SUBSTITUTES)
        own = _value(slot(stage), stage.state.per) if stage.array else ""
        given = {"g": "g", "p": "p", "own": own, CHANGED[place]: "x"}
        has = f" and t.slot[{slot(stage)}]" if stage.array else ""
        source += f"    if stages & {stage.bit}{has}:\n        s = {stage.name}_numbers({_numbers(stage)})\n"
        source += f"        {result(stage, 'x', 'kept')} = {stage.name}({arguments(stage, stage.element, given)})\n"
        source += f"        store({_place(slot(stage))}, kept)\n" if keep and has_elements(stage) else ""
    return _defined(source + "    return x\n", "run", scope)


_TERMS = """
def terms(t, group, scalars, i, g, p, x):
    s = {name}_numbers({numbers})
    {terms} = measure({arguments})
    return {found}
"""


def stage_terms(stage: Stage, dtype: Any) -> Any:
    """What an element adds to the sums of a stage; x: the change of p."""
    terms = [f"term_{k}" for k in range(len(stage.sums))]
    source = _TERMS.format(
        name=stage.name,
        numbers=_numbers(stage),
        terms=", ".join(terms),
        arguments=arguments(stage, stage.measure, {"g": "g", "p": "p", "change": "x"}),
        found=_float64(terms),
    )
    scope = formula(stage, dtype, kernels.device, SUBSTITUTES)
    scope["measure"] = compile_formula(stage.measure, dtype, kernels.device, SUBSTITUTES)
    return _defined(source, "terms", scope)
