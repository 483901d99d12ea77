"""The optimizer classes of many ranks, one for each rule."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, getdoc
from typing import Any

from fastupdate import rules
from fastupdate.optimizers import class_of, page
from fastupdate.rules.rule import Rule
from fastupdate.sharded.optimizer import Optimizer

PARAMS = "arrays of NumPy's or CuPy's in C order, the same on all ranks, to update in place; float32 or float64"
COMM = Parameter("comm", Parameter.POSITIONAL_OR_KEYWORD)
PIECES = Parameter("pieces", Parameter.KEYWORD_ONLY, default=None)


def make(rule: Rule, module: str) -> type[Optimizer]:
    """The class of a rule, as if it had been written out in that module."""
    flags = set(rule.flags) - set(rule.flag_hypers)

    def construct(self: Optimizer, params: Any, values: dict[str, Any], options: dict[str, Any]) -> None:
        comm, pieces = values.pop("comm"), values.pop("pieces")
        hypers = {name: value for name, value in values.items() if name not in flags}
        given = {name: values[name] for name in flags}
        Optimizer.__init__(self, params, comm, hypers, given, pieces, **options)

    return class_of(rule, Optimizer, module, f"{page(rule, PARAMS)}\n\n{getdoc(Optimizer)}", construct, COMM, PIECES)


CLASSES: Mapping[str, type[Optimizer]] = {
    found.formula.__name__: make(found, "fastupdate.sharded") for found in rules.every().values()
}
