"""A rule's functions as machine code, and the source of the loops around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from types import FunctionType
from typing import Any

import numpy as np

from fastupdate.engines.python.compiling import compiled, exact, inlined
from fastupdate.engines.python.tiles import DOUBLE, state_tile, view
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
def range_of(t, extent, i):
    """The range that an element is in (csrc/core/extents.h)."""
    if extent == ROW:
        return i // t.columns
    if extent == COLUMN:
        return i // (t.rows * t.columns) * t.columns + i % t.columns
    if extent == MATRIX:
        return i // (t.rows * t.columns)
    return i // t.unit_length if extent == UNIT else 0


@compiled
def spread(t, extent, state, begin, p):
    """A state of another extent than an element, for each element of a tile."""
    out = np.empty(len(p), p.dtype)
    values = view(state, t.n, DOUBLE)  # as many as there can be
    for i in range(len(p)):
        out[i] = values[range_of(t, extent, begin + i)]
    return out


class Formula:
    """What the source of a loop around a rule's function is made of; Numba has no lists of arrays of varying length.

    scalars   the rule's scalars, one by one, from the array of this name
    tiles     statements: each state's part that belongs to a tile
    values    the states of element i, in order; `absent` for one that does not exist
    targets   where the new states of element i go
    scope     what the source refers to
    """

    def __init__(self, rule: Rule, mask: int, dtype: Any, scalars: str = "scalars") -> None:
        self.rule, self.dtype = rule, dtype
        compiled = {name: bool(mask >> k & 1) for k, name in enumerate(rule.compiled_flags)}
        self.flags = {**dict.fromkeys(rule.flags, False), **compiled}
        self.flag_tuple, self.kept = rule.flag_tuple(self.flags), rule.kept(self.flags)
        self.scalars_type = type(rule.prepare(dict.fromkeys(rule.hypers, 0.5), 1))
        self.scalar_count = len(self.scalars_type._fields)
        self.scalars = ", ".join(f"{scalars}[{k}]" for k in range(self.scalar_count))
        self.tiles = "; ".join(self._tile(k, name) for k, name in enumerate(rule.states)) or "pass"
        self.values = [f"{name}_[i]" if name in self.kept else "absent" for name in rule.states]
        self.targets = [f"{name}_[i]" if name in self.kept else "absent" for name in rule.states_of("element")]

    def _tile(self, k: int, name: str) -> str:
        extent = EXTENTS.index(self.rule.extents[name])
        if extent == 0:
            return f"{name}_ = state_tile(t.slot[{k}], begin, p)"
        return f"{name}_ = spread(t, {extent}, t.slot[{k}], begin, p)"

    @cached_property
    def scope(self) -> dict[str, Any]:
        return {
            "state_tile": state_tile,
            "spread": spread,
            "view": view,
            "DOUBLE": DOUBLE,
            "Scalars": self.scalars_type,
            "flags": self.flag_tuple,
        }

    def compiled(self, function: Callable[..., Any]) -> Any:
        """One of the rule's functions."""
        return compile_formula(function, self.dtype)
