"""The optimizer classes, one for each rule, with the arguments of `torch.optim` where that has the rule."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, getdoc

from fastupdate import rules
from fastupdate.optimizers import class_of, page
from fastupdate.rules.rule import Rule
from fastupdate.torch.names import DECOUPLING
from fastupdate.torch.numbers import DECOUPLED
from fastupdate.torch.optimizer import SWITCHES, Optimizer
from fastupdate.torch.packages import FIXED

PARAMS = "tensors on the CPU, dicts of groups, or pairs of name and tensor; float32 or float64"


def make(rule: Rule, module: str) -> type[Optimizer]:
    """The torch optimizer class of a rule, as if it had been written out in that module."""
    switches = [Parameter(name, Parameter.KEYWORD_ONLY, default=value) for name, value in SWITCHES.items()]
    switches += [Parameter(n, Parameter.KEYWORD_ONLY, default=v) for n, (v, _) in FIXED.get(rule.name, {}).items()]
    if rule.name in DECOUPLING:
        switches.insert(0, Parameter(DECOUPLED, Parameter.POSITIONAL_OR_KEYWORD, default=False))
    return class_of(rule, Optimizer, module, _page(rule), Optimizer.__init__, *switches)


def _page(rule: Rule) -> str:
    return f"{page(rule, PARAMS)}\n\n{getdoc(Optimizer)}"


CLASSES: Mapping[str, type[Optimizer]] = {
    found.formula.__name__: make(found, "fastupdate.torch") for found in rules.every().values()
}
