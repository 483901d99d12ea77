"""The compiled CPU backend."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from fastupdate import _core
from fastupdate.arrays import autograd
from fastupdate.arrays.rows import Rows
from fastupdate.engines import threads
from fastupdate.engines.protocol import Engine
from fastupdate.engines.records import Tables
from fastupdate.rules.rule import Rule

NAME = "native"
WALKS_MEMORY = True


def select_isa() -> None:
    """The best instruction set of this processor, or the one that FASTUPDATE_ISA names."""
    available = _core.available_isas()
    wanted = os.environ.get("FASTUPDATE_ISA") or available[-1]
    if wanted not in available:
        raise ValueError(f"FASTUPDATE_ISA: expected one of {', '.join(available)}, received {wanted!r}")
    _core.select_isa(wanted)


@cache
def _meet_torch() -> bool:
    if not autograd.introduce(_core):
        return False
    torch = sys.modules["torch"]
    _core.find_shim([_with_gradient(torch.nn.Parameter, torch), _with_gradient(torch.Tensor.requires_grad_, torch)])
    return True


def _with_gradient(make: Any, torch: Any) -> Any:
    """A tensor to try functions of libtorch on."""
    tensor = make(torch.ones(2, 3, dtype=torch.float32, device="cpu"))
    tensor.grad = torch.ones_like(tensor)
    return tensor


def reads(tensor: Any) -> bool:
    """Whether the engine looks at this torch tensor itself: of exactly torch's types, of torch 2.10 or later."""
    return _meet_torch() and _core.reads(tensor)


def make_plan(rule: Rule, flags: Mapping[str, bool], tables: Tables) -> Engine:
    """A plan that one native call runs; Numba compiles the rule if it is the user's own."""
    own = None
    if not rule.native:
        from fastupdate.engines.python.own import addresses

        own = addresses(rule, flags, tables.dtypes)
    return _core.Plan(rule.name, rule.mask(flags), *tables, own)


select_isa()
_core.meet_rows(Rows)
_core.set_threads(threads.get_num_threads(), threads.is_fixed())
