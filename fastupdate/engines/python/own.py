"""Rules of one's own in the native engine: Numba makes of their functions what csrc/cpu/engine.h calls RuleCode."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numba import cfunc, float64, from_dtype, int64, njit, uint64, void
from numba.core.compiler import Compiler

from fastupdate.engines import records
from fastupdate.engines.python import kernels
from fastupdate.engines.python.engine import compile_formula
from fastupdate.rules import rule as rules
from fastupdate.rules.rule import Rule


class Disjoint(Compiler):
    """Compiles functions whose arrays never overlap, so that loops need no test of it."""

    def define_pipelines(self) -> Any:
        self.state.flags.noalias = True
        return super().define_pipelines()  # type: ignore[no-untyped-call]


# Written out, for rules differ in the number of hyperparameters, scalars and states.
_SOURCE = """
def scalars(hyper, t, out):
    h = view(hyper, {hyper_count}, DOUBLE)
    s = prepare(Hyper({hypers}), np.float64(t))
    to = view(out, {scalar_count}, LIKE)
    for k in range({scalar_count}):
        to[k] = cast(s[k], LIKE)

def move(c, scale, g, p, {arrays}):
    s = Scalars({scalars})
    absent = scale - scale
    for i in range(len(p)):
        delta, {targets} = update(flags, s, g[i] * scale, p[i], {values})
        p[i] = p[i] + delta

def differ(c, scale, g, p, base, out, {arrays}):
    s = Scalars({scalars})
    absent = scale - scale
    for i in range(len(p)):
        delta, {targets} = update(flags, s, g[i] * scale, p[i], {values})
        out[i] = base[i] + delta

def loop(c, scale, n, g, p, base, out, states, begin):
    state = view(states, {state_count}, ADDRESS)
    c_, g_, p_ = view(c, {scalar_count}, LIKE), view(g, n, LIKE), view(p, n, LIKE)
    if p == base and p == out:
        move(c_, cast(scale, LIKE), g_, p_, {tiles})
    else:
        differ(c_, cast(scale, LIKE), g_, p_, view(base, n, LIKE), view(out, n, LIKE), {tiles})
"""


@cache
def code(rule: Rule, mask: int, dtype: Any) -> tuple[Any, Any]:
    """C functions `scalars` and `loop` of a rule in one variant and compute type; they stay for as long as we do."""
    flags = {name: bool(mask >> k & 1) for k, name in enumerate(rule.flags)}
    kept = rule.kept(flags)
    prepared = type(rule.prepare(dict.fromkeys(rule.hypers, 0.5), 1))
    elements = ", ".join(f"{name}[i]" if name in kept else "absent" for name in rule.states)
    source = _SOURCE.format(
        hyper_count=len(rule.hypers),
        hypers=", ".join(f"h[{k}]" for k in range(len(rule.hypers))),
        scalar_count=len(prepared._fields),
        scalars=", ".join(f"c[{k}]" for k in range(len(prepared._fields))),
        state_count=records.MAX_STATES,
        arrays=", ".join(kept),
        targets=elements,
        values=elements,
        tiles=", ".join(f"state_tile(state[{k}], begin, p_)" for k, name in enumerate(rule.states) if name in kept),
    )
    scope: dict[str, Any] = {"np": np, "view": kernels.view, "cast": kernels.cast, "state_tile": kernels.state_tile}
    scope |= {"LIKE": np.empty(0, dtype), "DOUBLE": np.empty(0), "ADDRESS": np.empty(0, np.uint64)}
    scope |= {"Hyper": namedtuple("Hyper", rule.hypers), "Scalars": prepared, "flags": rule.flag_tuple(flags)}
    formula: Any = rule.formula
    scope["prepare"] = compile_formula(formula.prepare, np.dtype(np.float64), substitutes={rules.scalars: prepared})
    scope["update"] = compile_formula(rule.update, dtype)
    exec(source, scope)
    x = from_dtype(dtype)
    for name, before in (("move", 4), ("differ", 6)):
        arguments = [x[::1]] * (before + len(kept))
        arguments[1] = x
        compiler = njit(void(*arguments), nogil=True, error_model="numpy", pipeline_class=Disjoint)
        scope[name] = compiler(scope[name])
    scalars = cfunc(void(uint64, int64, uint64), error_model="numpy")(scope["scalars"])
    signature = void(uint64, float64, int64, uint64, uint64, uint64, uint64, uint64, int64)
    return scalars, cfunc(signature, error_model="numpy")(scope["loop"])


def addresses(rule: Rule, flags: Mapping[str, bool], dtypes: list[Any]) -> list[int]:
    """Where the code of a rule is, [scalars, loop] for each compute type; 0 for those that are not among `dtypes`."""
    found = [
        code(rule, rule.mask(flags), np.dtype(t)) if np.dtype(t) in dtypes else () for t in (np.float32, np.float64)
    ]
    return [address for functions in found for address in ([f.address for f in functions] or [0, 0])]
