"""What a rule or a stage measures and settles, compiled: the functions that phases.py calls."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastupdate.engines import records
from fastupdate.engines.python import own
from fastupdate.engines.python.compiling import c_function, defined, inlined
from fastupdate.engines.python.formula import SUBSTITUTES, compile_formula
from fastupdate.engines.python.stages import arguments, formula, slot
from fastupdate.rules.rule import EXTENTS, Rule
from fastupdate.stages import Stage

# Of a stage c has its numbers, and the only state is the change of p.
_MEASURE = """
def loop(c, scale, n, g, p, states, begin, terms):
    c_, g_, p_ = view(c, {count}, LIKE), view(g, n, LIKE), view(p, n, LIKE)
    x, terms_ = view(view(states, 1, ADDRESS)[0], n, LIKE), view(terms, {room}, DOUBLE)
    s = {name}_numbers({numbers})
    for i in range(n):
        {terms} = measure({arguments})
"""
_SETTLE = """
def settle(c, count, n, sums, states):
    state = view(states, {slot} + 1, ADDRESS)[{slot}]
    if state:
        c_, sum_, own = view(c, {count}, DOUBLE), view(sums, count * {terms}, DOUBLE), view(state, count, DOUBLE)
        s = {name}_numbers({numbers})
        for i in range(count):
            own[i] = settle_own(s, n, {sums}, own[i])
"""


@cache
def stage_measure(stage: Stage, dtype: Any) -> Any:
    """What a stage measures of a tile, as a C function."""
    source = _MEASURE.format(
        **_words(stage),
        room=len(stage.sums) * records.BLOCK,
        terms=", ".join(f"terms_[{k * records.BLOCK} + i]" for k in range(len(stage.sums))),
        arguments=arguments(stage, stage.measure, {"g": "g_[i]", "p": "p_[i]", "change": "x[i]"}),
    )
    scope = {**own.SCOPE, **formula(stage, dtype, inlined, SUBSTITUTES), "LIKE": np.empty(0, dtype)}
    scope["measure"] = compile_formula(stage.measure, dtype)
    return c_function(own.MEASURES, defined(source, scope)["loop"])


@cache
def stage_settle(stage: Stage) -> Any:
    """What settles its ranges, as a C function."""
    terms, double = len(stage.sums), np.dtype(np.float64)
    sums = ", ".join(f"sum_[i * {terms} + {k}]" for k in range(terms))
    source = _SETTLE.format(**_words(stage), terms=terms, sums=sums, slot=slot(stage))
    scope = {**own.SCOPE, **formula(stage, double, inlined, SUBSTITUTES)}
    scope["settle_own"] = compile_formula(stage.settle, double)
    return c_function(own.SETTLES, defined(source, scope)["settle"])


def _words(stage: Stage) -> dict[str, Any]:
    """What both sources have in them."""
    numbers = ", ".join(f"c_[{k}]" for k in range(len(stage.numbers)))
    return {"name": stage.name, "numbers": numbers, "count": len(stage.numbers)}


class Measured(NamedTuple):
    """A phase of a rule, or a stage that measures, as the loops of phases.py take it.

    of        its number, or the stage
    measures  whether it looks at elements; else numbers that go on from step to step are settled
    terms     how many sums there are, of which those of the bits of `maxima` are maxima
    by_rows   it goes through a tensor row by row; else block by block
    columns   it sums over columns
    shape     bit e is set if ranges of extent e are settled
    changes   it measures the change of p that the rule would make
    settles   compiled, by extent but for elements; where none is settled, any
    """

    of: int | Stage
    measures: bool
    terms: int
    maxima: int
    by_rows: bool
    columns: bool
    shape: int
    changes: bool
    settles: tuple[Any, ...]

    @property
    def by_list(self) -> bool:
        """Whether the whole list is settled."""
        return bool(self.shape >> EXTENTS.index("list") & 1)


def of_stage(stage: Stage) -> Measured:
    """What a stage measures."""
    shape, settles = 1 << EXTENTS.index(stage.state.per), (stage_settle(stage),) * (len(EXTENTS) - 1)
    return Measured(stage, True, len(stage.sums), 0, stage.by_rows, False, shape, stage.place == "change", settles)


def of_phase(rule: Rule, mask: int, number: int) -> Measured:
    """What a phase measures."""
    phase, [_, *settles] = rule.phases[number], own.settles(rule, mask)[number]
    maxima, columns = sum(1 << k for k in phase.maxima), bool(phase.summed("column"))
    measures, terms, settled = phase.measure is not None, len(phase.sums), next(filter(None, settles))
    each = tuple(settle or settled for settle in settles)
    return Measured(number, measures, terms, maxima, phase.by_rows, columns, phase.settled, False, each)


def measure_of(of: int | Stage, rule: Rule, mask: int, dtype: Any) -> Any:
    """What measures a tile, as a C function."""
    return own.measure_loop(rule, mask, of, dtype) if isinstance(of, int) else stage_measure(of, dtype)
