"""The rules. Each module here has the name of its header in csrc/rules, and the registry finds it by itself."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastupdate.optimizer import Optimizer


@cache
def _registry() -> dict[str, type[Optimizer]]:
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    classes = [value for m in modules for value in vars(m).values() if isinstance(value, type)]
    return {cls.rule.name: cls for cls in classes if hasattr(cls, "rule")}


def names() -> list[str]:
    """The registered rules, by name, in alphabetical order."""
    return sorted(_registry())


def get(name: str) -> type[Optimizer]:
    """The optimizer class of a rule."""
    if name not in _registry():
        raise ValueError(f"[fastupdate] rule: expected one of {', '.join(names())}, received {name!r}")
    return _registry()[name]
