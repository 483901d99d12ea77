"""Updates without an object: `fu.functional.<rule>(params, grads, *states, step=…, lr=…)`, one function per rule.

params, grads and each state are an array, or sequences or mappings of arrays; params and states are updated in place.
`step` is the number of the step being taken, 1 for the first. Hyperparameters and options are those of the class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastupdate import rules
from fastupdate.optimizer import Optimizer
from fastupdate.step.report import Report

__all__ = [*rules.names()]  # noqa: PLE0604


def _function_of(cls: type[Optimizer]) -> Callable[..., Report]:
    def update(params: Any, grads: Any, *states: Any, step: int, **options: Any) -> Report:
        opt = cls(params, state=states, **options)
        opt.start_at(step)
        return opt.step(grads)

    update.__name__ = update.__qualname__ = cls.rule.name
    update.__doc__ = f"One in-place update, step number `step`, by `{cls.__name__}`.\n\n    {cls.__doc__}"
    return update


def __getattr__(name: str) -> Callable[..., Report]:
    if name not in rules.names():
        raise AttributeError(f"fastupdate.functional has no {name!r}; there are {', '.join(rules.names())}")
    function = _function_of(rules.get(name))
    globals()[name] = function
    return function
