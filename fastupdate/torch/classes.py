"""The optimizer classes, one for each rule, with the arguments of `torch.optim` where that has the rule."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, Signature, getdoc
from typing import Any

from fastupdate import rules
from fastupdate.optimizers import arguments, page
from fastupdate.rules.rule import Rule
from fastupdate.torch.optimizer import SWITCHES, Optimizer

PARAMS = "tensors on the CPU, dicts of groups, or pairs of name and tensor; float32 or float64"


def make(rule: Rule, module: str) -> type[Optimizer]:
    """The torch optimizer class of a rule, as if it had been written out in that module."""
    given = arguments(rule)
    named = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=value) for name, value in given.items()]
    switches = [Parameter(name, Parameter.KEYWORD_ONLY, default=value) for name, value in SWITCHES.items()]
    leading = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", "params")]
    signature = Signature([*leading, *named, *switches, Parameter("options", Parameter.VAR_KEYWORD)])

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: N807
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{rule.formula.__name__}() {error}") from None
        bound.apply_defaults()
        values: dict[str, Any] = bound.arguments
        self, params, options = values.pop("self"), values.pop("params"), values.pop("options")
        Optimizer.__init__(self, params, values, options)

    name = rule.formula.__name__
    __init__.__signature__ = signature  # type: ignore[attr-defined]
    __init__.__qualname__ = f"{name}.__init__"
    __init__.__module__ = module
    body = {"rule": rule, "__init__": __init__, "__doc__": _page(rule), "__module__": module, "__qualname__": name}
    return type(name, (Optimizer,), body)


def _page(rule: Rule) -> str:
    return f"{page(rule, PARAMS)}\n\n{getdoc(Optimizer)}"


CLASSES: Mapping[str, type[Optimizer]] = {
    found.formula.__name__: make(found, "fastupdate.torch") for found in rules.every().values()
}
