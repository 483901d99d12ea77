"""What optimizers show as attributes, and what an assignment to one does: it takes effect, or says what would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from fastupdate.arrays.place import Place
from fastupdate.step.hypers import ALIASES, SHARED
from fastupdate.step.options import Options
from fastupdate.step.transaction import at_once

if TYPE_CHECKING:
    from fastupdate.optimizer import Optimizer


class Hyper:
    """A hyperparameter of all groups: reads the value that they share, sets that of every one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.__doc__ = f"{name} of every group, a number or a schedule; ValueError on reading where groups differ."

    def __get__(self, opt: Optimizer | None, owner: type[Optimizer]) -> Any:
        if opt is None:
            return self
        values = [group[self.name] for group in opt.groups]
        if any(value != values[0] for value in values):
            shown = ", ".join(map(repr, values))
            opt.stepper.place(self.name).fail(ValueError, "groups that agree (else see opt.groups)", shown)
        return values[0]

    def __set__(self, opt: Optimizer, value: Any) -> None:
        first, *others = opt.groups
        if others:
            at_once([assignment for group in opt.groups for assignment in group.setting(self.name, value)])
        else:
            first[self.name] = value


class Fixed:
    """An option or a flag of the rule: can be read, not set."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.__doc__ = f"The option {name}, as given when the optimizer was made."

    def __get__(self, opt: Optimizer | None, owner: type[Optimizer]) -> Any:
        if opt is None:
            return self
        flags = opt.stepper.flags
        return flags[self.name] if self.name in flags else getattr(opt.stepper.settings, self.name)

    def __set__(self, opt: Optimizer, value: Any) -> None:
        fail(opt, self.name, "a value when the optimizer is made")


def fail(opt: Optimizer, name: str, expected: str) -> NoReturn:
    """AttributeError for an assignment that could have no effect."""
    opt.stepper.place(name).fail(AttributeError, expected, "an assignment")


def show(cls: type[Optimizer]) -> None:
    """Gives a rule's class an attribute for each hyperparameter, option and flag that has none yet."""
    hypers = {*cls.rule.hypers, *SHARED}
    aliases = {alias for alias, names in ALIASES.items() if hypers.issuperset(names)}
    fixed = {*Options.__annotations__, *cls.rule.flags} - {*hypers, *cls.rule.flag_hypers}
    for name in hypers | aliases | fixed:
        if not hasattr(cls, name):
            setattr(cls, name, Fixed(name) if name in fixed else Hyper(name))


def _refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
    place: Place = self.place
    place.fail(TypeError, f"arrays written in place, as opt.{place.argument}…[...] = x", "an assignment")


def _set(self: Any, key: Any, value: Any) -> None:
    try:
        same = self[key] is value  # `state["w"] += x` has written in place, and assigns what was there
    except LookupError:
        same = False
    if not same:
        _refuse(self)


class LiveDict(dict[Any, Any]):
    """A mapping of live arrays: they can be written, not exchanged. Copies are plain."""

    place: Place

    def __reduce__(self) -> Any:
        return dict, (dict(self),)

    __setitem__ = _set
    __delitem__ = update = pop = popitem = clear = setdefault = __ior__ = _refuse


class LiveList(list[Any]):
    """A sequence of live arrays: they can be written, not exchanged. Copies are plain."""

    place: Place

    def __reduce__(self) -> Any:
        return list, (list(self),)

    __setitem__ = _set
    __delitem__ = append = extend = insert = remove = pop = clear = _refuse
    sort = reverse = __iadd__ = __imul__ = _refuse


def live(place: Place, tree: Any) -> Any:
    """A structure of plain containers as one whose arrays cannot be exchanged, which would have no effect."""
    if isinstance(tree, tuple):
        return tuple(live(place, value) for value in tree)
    made: LiveDict | LiveList
    if isinstance(tree, dict):
        made = LiveDict((key, live(place, value)) for key, value in tree.items())
    elif isinstance(tree, list):
        made = LiveList(live(place, value) for value in tree)
    else:
        return tree
    made.place = place
    return made
