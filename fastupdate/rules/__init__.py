"""The rules. Each module here has the name of its header in csrc/rules, and the registry finds it by itself."""

from importlib import import_module
from pkgutil import iter_modules

from fastupdate.optimizer import Optimizer

_registry: dict[str, type[Optimizer]] = {
    cls.rule.name: cls
    for module in (import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__))
    for cls in vars(module).values()
    if isinstance(cls, type) and issubclass(cls, Optimizer) and cls.__module__ == module.__name__
}


def names() -> list[str]:
    """The registered rules, by name, in alphabetical order."""
    return sorted(_registry)


def get(name: str) -> type[Optimizer]:
    """The optimizer class of a rule."""
    if name not in _registry:
        raise ValueError(f"[fastupdate] rule: expected one of {', '.join(names())}, received {name!r}")
    return _registry[name]
