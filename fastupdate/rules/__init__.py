"""The rules. Each module here that holds a class with `update` is one, and is found by itself."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from fastupdate.arrays.place import Place
from fastupdate.rules.rule import Rule, rule_of

if TYPE_CHECKING:
    from fastupdate.optimizer import Optimizer

__all__ = ["get", "named", "names"]


@cache
def every() -> dict[str, Rule]:
    """All rules by name, in alphabetical order."""
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__) if found.name != "emit"]
    own = [value for m in modules for value in vars(m).values() if getattr(value, "__module__", None) == m.__name__]
    found = [rule_of(value) for value in own if isinstance(value, type) and "update" in vars(value)]
    return {rule.name: rule for rule in sorted(found, key=lambda rule: rule.name)}


def names() -> list[str]:
    """The rules that come with the library, by name, in alphabetical order."""
    return list(every())


def named(word: str) -> str:
    """The rule that a word names, in capitals or not; ValueError says which one is alike, and which there are."""
    name = word.lower()
    if name not in every():
        alike = get_close_matches(name, names(), 1)
        hint = f", did you mean {alike[0]}?" if alike else ";"
        raise ValueError(f"no rule {word!r}{hint} there are {', '.join(names())}")
    return name


def get(name: str) -> type[Optimizer]:
    """The optimizer class of a rule."""
    from fastupdate import optimizers  # which is made of the rules

    if name not in every():
        Place("fastupdate", "rule").not_among(names(), name, str)
    cls: type[Optimizer] = getattr(optimizers, every()[name].formula.__name__)
    return cls


def __dir__() -> list[str]:
    """What is for users, not the modules that rules are written in."""
    return __all__
