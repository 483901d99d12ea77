"""The compiled CPU backend."""

from __future__ import annotations

import os
from collections.abc import Mapping

from fastupdate import _core
from fastupdate.arrays.memory import DTYPES, Array
from fastupdate.engines import threads
from fastupdate.engines.protocol import Engine
from fastupdate.engines.records import Records
from fastupdate.rules.rule import Rule

NAME = "native"


def select_isa() -> None:
    """The best instruction set of this processor, or the one that FASTUPDATE_ISA names."""
    available = _core.available_isas()
    wanted = os.environ.get("FASTUPDATE_ISA") or available[-1]
    if wanted not in available:
        raise ValueError(f"FASTUPDATE_ISA: expected one of {', '.join(available)}, received {wanted!r}")
    _core.select_isa(wanted)


def make_plan(
    rule: Rule,
    flags: Mapping[str, bool],
    tensors: Records,
    groups: Records,
    recipe: Records,
    clock: Array,
    sums: Records,
) -> Engine:
    """A plan that one native call runs; Numba compiles the rule if it is the user's own."""
    own: list[int] = []
    if not rule.native:
        from fastupdate.engines.python.own import addresses

        own = addresses(rule, flags, [dtype for dtype, code in DTYPES.items() if (tensors["dtype"] == code).any()])
    return _core.Plan(rule.name, rule.mask(flags), tensors, groups, recipe, clock, sums, own)


select_isa()
_core.set_threads(threads.get_num_threads(), threads.is_fixed())
