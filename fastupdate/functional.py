"""Updates without an object: `fu.functional.<rule>(params, grads, *states, step=…, lr=…)`, one function per rule.

params, grads and each state are an array, or sequences or mappings of arrays; params and states are updated in place.
`step` is the number of the step being taken, 1 for the first. Hyperparameters and options are those of the class, but
for what is remembered from step to step.

A call on contiguous arrays, or on lists of them, with plain numbers is one native call, which builds no optimizer
(csrc/python/call.h); any other call builds one. Both leave the same bits.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

from fastupdate import optimizers, rules
from fastupdate.arrays.place import Place
from fastupdate.engines import choose
from fastupdate.optimizer import Optimizer
from fastupdate.rules.rule import Hyper, Rule, State, declared
from fastupdate.stages import ARRAYS
from fastupdate.step.report import Report

__all__ = [*rules.names()]  # noqa: PLE0604

REMEMBERS = [  # options that have no place in a single call
    "shadow", "state", "max_skips", "outliers",
    *(option for stage in ARRAYS.values() if stage.state.lasts for option in stage.options),
]  # fmt: skip

Function = Callable[..., Report]


def in_python(cls: type[Optimizer]) -> Function:
    """The call that takes whatever the class takes."""

    def update(params: Any, grads: Any, *states: Any, step: int, **options: Any) -> Report:
        for name in REMEMBERS:
            _check_forgets(cls, name, options.pop(name, None))
        opt = cls(params, state=states, **options)
        for group in opt.groups:  # a tensor's own step number would depend on when it thawed
            _check_forgets(cls, "frozen_until", group["frozen_until"] or None)
        opt.start_at(step)
        return opt.step(grads)

    update.__name__ = update.__qualname__ = cls.rule.name
    update.__doc__ = _page(cls)
    return update


def _check_forgets(cls: type[Optimizer], name: str, value: Any) -> None:
    if value is not None:
        expected = f"nothing that is remembered from step to step (fu.{cls.__name__} does)"
        Place(cls.rule.name, name).fail(ValueError, expected, repr(value))


def _page(cls: type[Optimizer]) -> str:
    states = [
        f"{name:<16}{state.meaning}"
        + (f"; only with {cls.rule.flag_hypers.get(state.when, state.when)}" if state.when else "")
        for name, state in declared(cls.rule.formula, State).items()
    ]
    states += [f"{name:<16}{factor.meaning}" for name, factor in cls.rule.factors.items()]
    lines = [f"One step in place, number `step`, as `fu.{cls.__name__}` takes it.", "", cls.__doc__ or ""]
    return "\n".join([*lines, "", "States, in this order:", *states] if states else lines)


def _specification(cls: type[Optimizer]) -> dict[str, Any]:
    """A rule as csrc/python/call.h wants it described."""
    rule = cls.rule
    defaults = optimizers.arguments(rule)
    hypers, flags = list(rule.hypers), list(rule.flags)
    shown = ", ".join(f"{name}={value!r}" for name, value in defaults.items())
    signature = f"{rule.name}(params, grads, /, *states, step, {shown}, **options)"
    return {
        "rule": rule.name,
        "module": __name__,
        "doc": f"{signature}\n--\n\n{_page(cls)}",
        "keywords": [_keyword(rule, name) for name in defaults],
        "hypers": [_hyper(hyper) for hyper in declared(rule.formula, Hyper).values()],
        "flag_hypers": [(flags.index(flag), hypers.index(hyper)) for flag, hyper in rule.flag_hypers.items()],
        "state_flags": [flags.index(rule.state_flags[s]) if s in rule.state_flags else -1 for s in rule.states],
        "lr": hypers.index("lr"),
        "check": rule.check if hasattr(rule.formula, "check") else None,
        "report": Report,
        "fallback": in_python(cls),
    }


def _hyper(hyper: Hyper) -> tuple[float, float, float, bool, bool]:
    """A default, and the interval that it lies in. At whole numbers Python looks: none passes at a glance."""
    within = hyper.interval
    low = math.inf if within.whole else within.low
    return hyper.default, low, within.high, within.open, within.above


def _keyword(rule: Rule, name: str) -> tuple[str, int, int, bool]:
    """A keyword, and which hyperparameters or which flag it sets."""
    if name in rule.flags:
        return name, rule.flags.index(name), 1, True
    parts = rule.aliases.get(name, (name,))
    return name, list(rule.hypers).index(parts[0]), len(parts), False


def _function_of(cls: type[Optimizer]) -> Function:
    if choose.default_name() != "native" or choose.native_problem() is not None or cls.rule.phases:
        return in_python(cls)
    from fastupdate import _core

    return _core.function(_specification(cls))


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Function:
    if name not in rules.names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    function = _function_of(rules.get(name))
    globals()[name] = function
    return function
