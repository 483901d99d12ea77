"""The optimizer classes, one for each rule, with the arguments of `torch.optim` where that has the rule."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, getdoc
from typing import Any

from fastupdate import rules
from fastupdate.arrays.place import Place
from fastupdate.optimizers import OTHERS, class_of, dividing, page
from fastupdate.rules.rule import Rule
from fastupdate.torch.names import DECOUPLING, DEFAULTS, FIXED, POSITIONAL
from fastupdate.torch.numbers import DECOUPLED, SWITCHES
from fastupdate.torch.optimizer import Optimizer
from fastupdate.torch.partition import divided

OTHERS_PAGE = """others is the rule of what is no matrix, as fu.AdamW.with_(lr=1e-3); or (pattern, rule), for what
else is to go by it, by names. The result is a fu.torch.Partition."""
PARAMS = "tensors on the CPU, dicts of groups, or pairs of name and tensor; float32 or float64"


def make(rule: Rule, module: str) -> type[Optimizer]:
    """The torch optimizer class of a rule, as if it had been written out in that module."""
    switches = [Parameter(name, Parameter.KEYWORD_ONLY, default=value) for name, value in SWITCHES.items()]
    switches += [Parameter(n, Parameter.KEYWORD_ONLY, default=v) for n, (v, _) in FIXED.get(rule.name, {}).items()]
    if rule.name in DECOUPLING:
        switches.insert(0, Parameter(DECOUPLED, Parameter.KEYWORD_ONLY, default=False))
    divides = rule.matrix is not None
    cls = class_of(
        rule,
        Optimizer,
        module,
        "\n\n".join([page(rule, PARAMS), *([OTHERS_PAGE] if divides else []), getdoc(Optimizer) or ""]),
        _alone if divides else Optimizer.__init__,
        *switches,
        *([OTHERS] if divides else []),
        defaults=DEFAULTS.get(rule.name, {}),
        positional=POSITIONAL.get(rule.name),
    )
    return dividing(cls, divided) if divides else cls


def _alone(self: Optimizer, params: Any, values: dict[str, Any], options: dict[str, Any]) -> None:
    if values.pop("others") is not None:  # it makes a partition, before this is called
        Place(self.rule.name, "others").fail(TypeError, "None in a subclass (see fu.torch.Partition)", "a rule")
    Optimizer.__init__(self, params, values, options)


CLASSES: Mapping[str, type[Optimizer]] = {
    found.formula.__name__: make(found, "fastupdate.torch") for found in rules.every().values()
}
BY_NAME: Mapping[str, type[Optimizer]] = {cls.rule.name: cls for cls in CLASSES.values()}
