"""What optimizers show as attributes, and what an assignment to one does: it takes effect, or says what would."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from fastupdate.arrays.memory import Assignment
from fastupdate.arrays.place import Closed, Place
from fastupdate.step.hypers import SHARED, Group
from fastupdate.step.options import Options
from fastupdate.step.transaction import at_once

if TYPE_CHECKING:
    from fastupdate.optimizer import Optimizer
    from fastupdate.partition import Partition


class Hyper:
    """A hyperparameter of all groups: reads the value that they share, sets that of every one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.__doc__ = f"{name} of every group, a number or a schedule; ValueError on reading where groups differ."

    def __get__(self, opt: Optimizer | None, owner: type[Optimizer]) -> Any:
        if opt is None:
            return self
        groups = opt.stepper.hypers.groups
        return groups[0][self.name] if len(groups) == 1 else agreed(opt.stepper.place(self.name), self.values(opt))

    def __set__(self, opt: Optimizer, value: Any) -> None:
        groups = opt.stepper.hypers.groups
        if len(groups) == 1:
            groups[0][self.name] = value
        else:
            at_once(self.setting(opt, value))

    def values(self, opt: Optimizer) -> list[Any]:
        """Those of its groups."""
        return [group[self.name] for group in opt.stepper.hypers.groups]

    def setting(self, opt: Optimizer, value: Any) -> list[Assignment]:
        """The assignments that set it in every group, once it has been checked."""
        return [each for group in opt.stepper.hypers.groups for each in group.setting(self.name, value)]


class Fixed:
    """An option or a flag of the rule: can be read, not set."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.__doc__ = f"The option {name}, as given when the optimizer was made."

    def __get__(self, opt: Optimizer | None, owner: type[Optimizer]) -> Any:
        return self if opt is None else self.values(opt)[0]

    def __set__(self, opt: Optimizer, value: Any) -> None:
        fail(opt, self.name, "a value when the optimizer is made")

    def values(self, opt: Optimizer) -> list[Any]:
        """What it is; one optimizer has one."""
        flags = opt.stepper.flags
        return [flags[self.name] if self.name in flags else getattr(opt.stepper.settings, self.name)]


class OfParts:
    """What rules of a partition have under a name: reads the value that they share, sets it in every group that has it.

    AttributeError where none of them has it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.__doc__ = f"{name} of all rules that have it; ValueError on reading where it differs (see opt.groups)."

    def __get__(self, opt: Partition | None, owner: type[Partition]) -> Any:
        if opt is None:
            return self
        having = self._having(opt)
        return agreed(opt._place(self.name), [value for part, shown in having for value in shown.values(part)])

    def __set__(self, opt: Partition, value: Any) -> None:
        having = self._having(opt)
        if any(isinstance(shown, Fixed) for _, shown in having):
            fail(opt, self.name, "a value when the optimizer is made")
        at_once([each for part, shown in having for each in shown.setting(part, value)])

    def _having(self, opt: Partition) -> list[tuple[Optimizer, Any]]:
        """The rules that have it, and what shows it."""
        found = [(part, getattr(type(part), self.name, None)) for part in opt.parts]
        having = [(part, shown) for part, shown in found if isinstance(shown, (Hyper, Fixed))]
        if not having:
            opt._place(self.name).fail(AttributeError, "a rule that has such a hyperparameter or option", "none")
        going_by_it = [pair for pair in having if not pair[0].groups[0].is_off(self.name)]
        return going_by_it or having


class Absent:
    """A word of torch's optimizers that these do not have: reading it says what there is in its place."""

    def __init__(self, instead: str) -> None:
        self.__doc__ = f"No attribute, but {instead}."
        self.instead = instead

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.name = name

    def __get__(self, opt: Any, owner: type[Any]) -> NoReturn:
        if opt is None:
            raise AttributeError(f"type object {owner.__name__!r} has no attribute {self.name!r}")
        place: Place = opt._place(self.name)
        place.fail(AttributeError, self.instead, "a word of torch's (see fu.torch)")


class NotTorch(Closed):
    """Base of optimizers, which are none of torch's."""

    zero_grad = Absent("the option zero_grads=True, or nothing: each step reads the gradients that it is given")
    add_param_group = Absent("a new optimizer of all parameters (load_state_dict with strict=False keeps states)")
    param_groups = Absent("opt.groups")
    defaults = Absent("opt.groups")

    def _check_new(self, name: str) -> None:
        if isinstance(vars(NotTorch).get(name), Absent):
            getattr(self, name)
        super()._check_new(name)


def agreed(place: Place, values: list[Any]) -> Any:
    """The value that all of them are; ValueError if they are not."""
    if any(value != values[0] for value in values):
        place.fail(ValueError, "groups that agree (else see opt.groups)", ", ".join(map(repr, values)))
    return values[0]


def group_of(place: Place, names: set[str], groups: Iterable[Group]) -> Group:
    """The group of these tensors; ValueError if they are of several."""
    found = [group for group in groups if names.intersection(group["params"])]
    if len(found) != 1:
        firsts = ", ".join(repr(group["params"][0]) for group in found) or "none"
        place.fail(ValueError, "a pattern that finds tensors of one group", f"one for those of {firsts}")
    return found[0]


def fail(opt: Closed, name: str, expected: str) -> NoReturn:
    """AttributeError for an assignment that could have no effect."""
    opt._place(name).fail(AttributeError, expected, "an assignment")


def show_parts(cls: type[Partition], parts: Iterable[Optimizer]) -> None:
    """Gives the class of partitions an attribute for whatever their rules have."""
    for rule in {type(part) for part in parts}:
        for name in dir(rule):
            if not hasattr(cls, name) and isinstance(getattr(rule, name, None), (Hyper, Fixed)):
                setattr(cls, name, OfParts(name))


def show(cls: type[Optimizer]) -> None:
    """Gives a rule's class an attribute for each hyperparameter, option and flag that has none yet."""
    hypers = {*cls.rule.hypers, *cls.rule.aliases, *SHARED}
    fixed = {*Options.__annotations__, *cls.rule.flags} - {*hypers, *cls.rule.flag_hypers}
    for name in hypers | fixed:
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
