"""The rules. Each module has the name of its header in csrc/rules and is documented there and here."""

from fastupdate.optimizer import Optimizer
from fastupdate.rules.adam import Adam
from fastupdate.rules.adamw import AdamW
from fastupdate.rules.momentum import Momentum
from fastupdate.rules.rmsprop import RMSprop
from fastupdate.rules.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Momentum", "RMSprop"]

_registry: dict[str, type[Optimizer]] = {cls.rule.name: cls for cls in (globals()[name] for name in __all__)}


def names() -> list[str]:
    """The registered rules, by name, in alphabetical order."""
    return sorted(_registry)


def get(name: str) -> type[Optimizer]:
    """The optimizer class of a rule."""
    if name not in _registry:
        raise ValueError(f"[fastupdate] rule: expected one of {', '.join(names())}, received {name!r}")
    return _registry[name]
