"""The functions of rules and stages as machine code, for a CPU or a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import numpy as np

from fastupdate.engines.python.compiling import c_function, compiled, exact, inlined
from fastupdate.engines.python.tiles import cast, element, state_tile, view
from fastupdate.rules import scalar
from fastupdate.rules.rule import EXTENTS, Rule

ROW, COLUMN, MATRIX, UNIT, TENSOR, LIST = range(1, len(EXTENTS))


def _where(condition: Any, a: Any, b: Any) -> Any:
    return a if condition else b


def _sign(x: Any) -> Any:
    return (1.0 if x > 0.0 else 0.0) - (1.0 if x < 0.0 else 0.0)


# What functions for rules are on single numbers, where Numba's own would be another type or slower. One that is a
# mapping is another for each compute type.
SUBSTITUTES: dict[Any, Any] = {scalar.where: _where, scalar.sign: _sign}


def compile_formula(
    function: Callable[..., Any],
    dtype: Any,
    compiler: Callable[..., Any] = inlined,
    substitutes: Mapping[Any, Any] = SUBSTITUTES,
) -> Any:
    """A rule's function, and the functions it calls, as machine code in which literals have the compute type.

    They become part of what calls them before it is compiled: compiled each by itself they took twice as long.
    """
    code, scope = function.__code__, dict(function.__globals__)
    for name in code.co_names:
        called = scope.get(name)
        if callable(called):
            called = substitutes.get(called, called)
            called = called[dtype] if isinstance(called, Mapping) else called
            plain = isinstance(called, FunctionType)
            scope[name] = compile_formula(called, dtype, compiler, substitutes) if plain else called
    literals = tuple(dtype.type(c) if isinstance(c, float) else c for c in code.co_consts)
    return compiler(FunctionType(code.replace(co_consts=literals), scope, function.__name__))


def in_float64(compiler: Callable[..., Any], substitutes: Mapping[Any, Any]) -> dict[Any, Any]:
    """`scalar.cbrt` and `power` as machine code for each compute type: in float64, and rounded from there."""
    single, double = np.dtype(np.float32), np.dtype(np.float64)
    root, power = (
        compile_formula(function, double, compiler, substitutes) for function in (scalar.cube_root, scalar.wide_power)
    )

    def narrow_root(x: Any) -> Any:
        return np.float32(root(np.float64(x)))

    def narrow_power(x: Any, y: Any) -> Any:
        return np.float32(power(np.float64(x), np.float64(y)))

    return {
        scalar.cbrt: {single: compiler(narrow_root), double: root},
        scalar.power: {single: compiler(narrow_power), double: power},
    }


SUBSTITUTES.update(in_float64(exact, SUBSTITUTES))


@compiled
def number_of(t, extent, numbers, i, like):
    """The number of the range that an element is in (csrc/core/extents.h)."""
    k = 0  # of a tensor, and of the list
    if extent == ROW:
        k = i // t.columns
    elif extent == COLUMN:
        k = i // (t.rows * t.columns) * t.columns + i % t.columns
    elif extent == MATRIX:
        k = i // (t.rows * t.columns)
    elif extent == UNIT:
        k = i // t.unit_length
    return cast(element(numbers, 0, k, np.float64), like)


class Target:
    """What functions are compiled for: here, a CPU."""

    def formula(self, function: Callable[..., Any], dtype: Any) -> Any:
        """A function of a rule or a stage."""
        return compile_formula(function, dtype)

    def own(self, function: Any) -> Any:
        """A function of ours."""
        return function

    def loop(self, function: Any, signature: Any) -> Any:
        """What kernels call. A C function on a CPU, so that they are compiled once for all rules."""
        return c_function(signature, function)


CPU = Target()


class Formula:
    """What the source of a loop around a rule's function is made of; Numba has no lists of arrays of varying length.

    scalars   the rule's scalars, one by one, from the array of this name
    values    the states of element i, in order; `absent` for one that does not exist
    targets   where the new states of element i go
    scope     what the source refers to
    """

    def __init__(self, rule: Rule, mask: int, dtype: Any, scalars: str = "scalars", target: Target = CPU) -> None:
        self.rule, self.dtype, self.target = rule, dtype, target
        compiled = {name: bool(mask >> k & 1) for k, name in enumerate(rule.compiled_flags)}
        self.flags = {**dict.fromkeys(rule.flags, False), **compiled}
        self.kept = rule.kept(self.flags)
        self.scalars_type = type(rule.prepare(dict.fromkeys(rule.hypers, 0.5), 1))
        self.scalar_count = len(self.scalars_type._fields)
        self.scalars = ", ".join(f"{scalars}[{k}]" for k in range(self.scalar_count))
        self.values = [f"{name}_[i]" if name in self.kept else "absent" for name in rule.states]
        self.targets = [f"{name}_[i]" if name in self.kept else "absent" for name in rule.states_of("element")]
        self.scope = {"Scalars": self.scalars_type, "flags": rule.flag_tuple(self.flags), **engine_words(target)}

    def compiled(self, function: Callable[..., Any]) -> Any:
        """One of the rule's functions."""
        return self.target.formula(function, self.dtype)


def engine_words(target: Target) -> dict[str, Any]:
    """What sources of loops refer to of the engine."""
    ours: dict[str, Any] = {"state_tile": state_tile, "number_of": number_of, "view": view, "cast": cast}
    return {"np": np} | {name: target.own(function) for name, function in ours.items()}
