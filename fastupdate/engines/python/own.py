"""Rules of one's own in the native engine: Numba makes of their functions what csrc/cpu/engine.h calls RuleCode."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import float64, int64, njit, uint64, void
from numba.core.compiler import Compiler

from fastupdate.engines import records
from fastupdate.engines.python.compiling import c_function, defined
from fastupdate.engines.python.formula import Formula, compile_formula
from fastupdate.rules import rule as rules
from fastupdate.rules.rule import EXTENTS, Extent, Phase, Rule


class Disjoint(Compiler):
    """Compiles functions whose arrays never overlap, so that loops need no test of it."""

    def define_pipelines(self) -> Any:
        self.state.flags.noalias = True
        return super().define_pipelines()  # type: ignore[no-untyped-call]


disjoint = njit(nogil=True, error_model="numpy", pipeline_class=Disjoint)


# Written out, for rules differ in the number of hyperparameters, scalars and states.
_SCALARS = """
def scalars(hyper, t, out):
    h = view(hyper, {hyper_count}, np.float64)
    s = prepare(Hyper({hypers}), np.float64(t))
    to = view(out, {scalar_count}, LIKE.dtype)
    for k in range({scalar_count}):
        to[k] = cast(s[k], LIKE)
"""

# Arrays of states come as arguments, for only so may a compiler know that none of them overlaps.
_TILE = """
def tile(c, scale, g, p, {others}{arrays}):
    s = Scalars({scalars})
    absent = scale - scale
    for i in range(len(p)):
        {results} = function(flags, s, g[i] * scale, p[i], {values})
        {then}
"""
_LOOP = """
def loop(c, scale, n, g, p, base, out, states, begin):
    state = view(states, {state_count}, np.int64)
    c_, g_, p_ = view(c, {scalar_count}, LIKE.dtype), view(g, n, LIKE.dtype), view(p, n, LIKE.dtype)
    if p == base and p == out:
        move(c_, cast(scale, LIKE), g_, p_, {tiles})
    else:
        differ(c_, cast(scale, LIKE), g_, p_, view(base, n, LIKE.dtype), view(out, n, LIKE.dtype), {tiles})
"""

_MEASURE = """
def loop(c, scale, n, g, p, states, begin, terms):
    state = view(states, {state_count}, np.int64)
    c_, g_, p_ = view(c, {scalar_count}, LIKE.dtype), view(g, n, LIKE.dtype), view(p, n, LIKE.dtype)
    tile(c_, cast(scale, LIKE), g_, p_, view(terms, {room}, np.float64), {tiles})
"""

_SETTLE = """
def settle(address, count, n, sums, states):
    state = view(states, {state_count}, np.int64)
    c, sum_ = view(address, {scalar_count}, np.float64), view(sums, count * {terms}, np.float64)
    s = Scalars({scalars})
    for i in range(count):
        {results} = settle_one(flags, s, n, {values})
"""


class Own:
    """The code of one rule in one variant, compiled for a type."""

    def __init__(self, rule: Rule, mask: int, dtype: Any) -> None:
        self.rule, self.dtype, self.formula = rule, dtype, Formula(rule, mask, dtype, scalars="c")
        self.kept = [k for k, name in enumerate(rule.states) if name in rule.kept(self.formula.flags)]
        self.words = {
            "hyper_count": len(rule.hypers),
            "hypers": ", ".join(f"h[{k}]" for k in range(len(rule.hypers))),
            "scalar_count": self.formula.scalar_count,
            "scalars": self.formula.scalars,
            "state_count": records.MAX_STATES,
            "arrays": ", ".join(f"{rule.states[k]}_" for k in self.kept),
            "values": ", ".join(map(self._value, rule.states, self.formula.values)),
            "tiles": ", ".join(f"state_tile(state[{k}], begin, p_)" for k in self.kept),
        }
        self.scope = {**self.formula.scope, "LIKE": np.empty(0, dtype), "Hyper": namedtuple("Hyper", rule.hypers)}

    def _value(self, state: str, of_element: str) -> str:
        """A state where element i is worked on; engines hand over one number of what is the same for a whole tensor."""
        return of_element.replace("[i]", "[0]") if self.rule.extents[state] in ("tensor", "list") else of_element

    def defined(self, source: str, **words: Any) -> dict[str, Any]:
        """The functions of a source, with these words in it and these things in their scope."""
        scope = self.scope | {key: value for key, value in words.items() if not isinstance(value, (str, int))}
        return defined(source.format(**self.words | words), scope)

    def scalars(self) -> Any:
        formula: Any = self.rule.formula
        substitutes = {rules.scalars: self.formula.scalars_type}
        prepare = compile_formula(formula.prepare, np.dtype(np.float64), substitutes=substitutes)
        return c_function(void(uint64, int64, uint64), self.defined(_SCALARS, prepare=prepare)["scalars"])

    def tile(self, function: Any, results: str, others: str, then: str) -> Any:
        """The loop of a function over arrays, of which there are others than gradient, weights and states."""
        function = self.formula.compiled(function)
        return disjoint(self.defined(_TILE, function=function, results=results, others=others, then=then)["tile"])

    def loop(self) -> Any:
        results = "".join(f"{result}, " for result in ("delta", *self.formula.targets))
        move = self.tile(self.rule.update, results, "", "p[i] = p[i] + delta")
        differ = self.tile(self.rule.update, results, "base, out, ", "out[i] = base[i] + delta")
        scope = self.defined(_LOOP, move=move, differ=differ)
        return c_function(void(uint64, float64, int64, uint64, uint64, uint64, uint64, uint64, int64), scope["loop"])

    def measure(self, phase: Phase) -> Any:
        if phase.measure is None:
            return None
        terms = [f"terms[{k} * {records.TILE} + i]" for k in range(len(phase.sums))]
        tile = self.tile(phase.measure, ", ".join([*terms, *self.formula.targets]), "terms, ", "")
        scope = self.defined(_MEASURE, room=records.TILE * len(phase.sums), tile=tile)
        return c_function(void(uint64, float64, int64, uint64, uint64, uint64, int64, uint64), scope["loop"])

    def settle(self, phase: Phase, extent: Extent) -> Any:
        """Of float64 alone."""
        numbers = [self.rule.states.index(name) for name in self.rule.states_of(extent)]
        own = [f"view(state[{k}], count, np.float64)[i]" for k in numbers]
        terms = len(phase.sums)
        scope = self.defined(
            _SETTLE,
            terms=terms,
            results=", ".join(own),
            values=", ".join([*(f"sum_[i * {terms} + {k}]" for k in phase.summed(extent)), *own]),
            settle_one=self.formula.compiled(phase.settles[extent]),
        )
        return c_function(void(uint64, int64, float64, uint64, uint64), scope["settle"])


@cache
def code(rule: Rule, mask: int, dtype: Any, moves: bool) -> tuple[Any, ...]:
    """C functions of a rule in one variant and compute type: scalars, loop, measures. They stay as long as we do.

    moves: there are tensors of this type; without them ranges are settled in it, which need scalars alone.
    """
    own = Own(rule, mask, dtype)
    if not moves:
        return own.scalars(), *[None] * (1 + len(rule.phases))
    return own.scalars(), own.loop(), *(own.measure(phase) for phase in rule.phases)


@cache
def settles(rule: Rule, mask: int) -> list[list[Any]]:
    """C functions by phase and extent; None where nothing is summed."""
    own = Own(rule, mask, np.dtype(np.float64))
    return [[own.settle(phase, e) if e in phase.settles else None for e in EXTENTS] for phase in rule.phases]


class Addresses(NamedTuple):
    """Where the code of a rule is, and what it is like, as csrc/python/own.h reads it.

    code      for each compute type [scalars, loop, measure of each phase]; empty for those that do not occur
    phases    for each phase what core/extents.h calls PhaseShape
    extents   of the states
    settles   by phase and extent; 0: none
    """

    code: list[list[int]]
    phases: list[tuple[bool, int, int, int]]
    extents: list[int]
    settles: list[list[int]]


def addresses(rule: Rule, flags: Mapping[str, bool], dtypes: list[Any]) -> Addresses:
    """What the native engine needs of a rule that is not in the build, for these compute types."""
    mask = rule.mask(flags)
    single, double = np.dtype(np.float32), np.dtype(np.float64)
    wanted = {*dtypes, double} if rule.phases else dtypes  # float64 is what ranges are settled in
    found = [code(rule, mask, t, t in dtypes) if t in wanted else () for t in (single, double)]
    return Addresses(
        [[f.address if f else 0 for f in functions] for functions in found],
        [
            (phase.measure is not None, len(phase.sums), phase.settled, sum(1 << k for k in phase.maxima))
            for phase in rule.phases
        ],
        [EXTENTS.index(rule.extents[name]) for name in rule.states],
        [[f.address if f else 0 for f in functions] for functions in settles(rule, mask)] if rule.phases else [],
    )
