"""Parameter groups as a run last saw them, and what has changed in them since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastupdate.arrays.place import Place
from fastupdate.rules.rule import Rule
from fastupdate.torch.numbers import DECOUPLED, changes_in_place, checked, keys_of, number_in_group, reader

SHARED_SWITCHES = ("maximize", DECOUPLED)  # that all groups have alike
LR = ("lr",)
Flags = dict[str, bool]


class EquationsError(ValueError):
    """Groups that step together mean different equations."""


class Row:
    """A parameter group as it was last seen.

    values  what a step reads of it, checked
    seen    what the native module knows it by (SeenGroup in csrc/python/lookout.h)
    """

    def __init__(self, rule: Rule, group: dict[str, Any]) -> None:
        self._rule = rule
        self.params = list(group["params"])
        self._look(group)

    def _look(self, group: dict[str, Any]) -> None:
        keys = keys_of(self._rule, group)
        lr, *rest = reader(keys)(group)
        self.values = checked(self._rule, {**dict(zip(keys, (lr, *rest), strict=True)), "params": self.params})
        self._read_rest, self._rest, self._length = reader(keys[1:]), tuple(rest), len(group)
        self._live = changes_in_place((lr, *rest))
        entries = -1 if self._live else self._length
        self.seen = (self.params, entries, tuple(keys[1:]), self._rest, self.values)

    def changes(self, group: dict[str, Any]) -> Sequence[str]:
        """The names of the values that have become others; these are checked, and taken."""
        if not self._live and len(group) == self._length and _equal(self._read_rest(group), self._rest):
            lr = group["lr"]
            if _equal(lr, self.values["lr"]):
                return ()
            low, high = self._rule.hypers["lr"][:2]
            if type(lr) is float and low < lr < high:  # a scheduler's doing, as in every step
                self.values["lr"] = lr
                return LR
        before = self.values
        self._look(group)
        return [name for name, value in self.values.items() if before.get(name) != value]


def _equal(new: Any, seen: Any) -> bool:
    """Whether they are; an array of several numbers equals none, and the closer look says what is wrong with it."""
    try:
        return bool(new == seen)
    except (RuntimeError, ValueError):
        return False


def equations_of(rule: Rule, values: Mapping[str, Any]) -> Flags:
    """What checked values of a group say of its equations, which groups that step together have alike."""
    own = (flag for flag in rule.flags if flag not in rule.flag_hypers)
    return {name: values[name] for name in (*own, *SHARED_SWITCHES)}


def flags_of(rule: Rule, rows: list[Row]) -> Flags:
    """The flags that the values of all groups mean together."""
    flags = equations_of(rule, rows[0].values)
    for k, row in enumerate(rows):
        for name, value in equations_of(rule, row.values).items():
            if value != flags[name]:
                expected = f"{flags[name]}, as in the first group (fu.torch.Partition takes groups that differ)"
                Place(rule.name, f"param_groups[{k}][{name!r}]").fail(EquationsError, expected, repr(value))
    for flag, hyper in rule.flag_hypers.items():
        flags[flag] = any(number_in_group(rule, row.values, hyper) != 0 for row in rows)
    return flags
