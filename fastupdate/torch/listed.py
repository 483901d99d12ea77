"""Numbers of the whole list, such as Prodigy's d: they are floats in each group, which all groups have alike.

So the packages of their authors have it: `optimizer.param_groups[0]["d"]` is what users log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fastupdate.arrays.memory import Array
from fastupdate.arrays.numbers import FINITE, real
from fastupdate.arrays.place import Place
from fastupdate.rules.rule import Rule
from fastupdate.step.hypers import CLIP
from fastupdate.step.tensors import Item, state_kind
from fastupdate.torch.numbers import is_zero

COUNT = "k"  # of the steps that were taken
NAMES: Mapping[str, Mapping[str, str]] = {
    "prodigy": {"numerator": "d_numerator"},
    "dadaptadam": {"numerator": "numerator_weighted"},
    "dadaptsgd": {"numerator": "numerator_weighted"},
}
OF_EACH_GROUP = {"lr", "weight_decay", "l1", CLIP, "ema_decay"}  # what groups may differ in, but see `check_alike`


def names_of(rule: Rule) -> dict[str, str]:
    """The rule's numbers of the whole list, each with the name that it has in groups."""
    known = NAMES.get(rule.name, {})
    return {name: known.get(name, name) for name in rule.states_of("list")}


def at_start(rule: Rule, values: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a new group of these values has of them, beside groups that are there."""
    if not names_of(rule):
        return {}
    of_all = {key: values[start] if isinstance(start := rule.starts[name], str) else start
              for name, key in names_of(rule).items()}  # fmt: skip
    of_all[COUNT] = 0
    return {key: groups[0].get(key, number) if groups else number for key, number in of_all.items()}


def check_there(rule: Rule, group: Mapping[str, Any], argument: str) -> None:
    """ValueError if a saved group whose parameters have moved lacks one of them that no step makes anew."""
    for name, key in names_of(rule).items():
        if key not in group and name not in rule.remade:
            Place(rule.name, f"{argument}[{key!r}]").fail(ValueError, "a number, as every step writes there", "none")


def resting(rule: Rule, groups: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Which groups take no part, nor their gradients in any sum: those whose lr is 0, if that of others is not."""
    listed = bool(names_of(rule))
    still = [listed and is_zero(group["lr"]) for group in groups]
    return still if not all(still) else [False] * len(still)


def check_alike(rule: Rule, groups: Sequence[Mapping[str, Any]]) -> None:
    """ValueError if groups differ in what a number of the whole list depends on: all that move have one lr."""
    if not names_of(rule):
        return
    lr = max(group["lr"] for group in groups)
    for k, group in enumerate(groups):
        if group["lr"] not in (0, lr):
            place = Place(rule.name, f"param_groups[{k}]['lr']")
            place.fail(
                ValueError, f"{lr}, as in other groups, or 0, for these tensors have one rate", repr(group["lr"])
            )
        for name in group.keys() - OF_EACH_GROUP:
            if group[name] != groups[0].get(name, group[name]):
                place = Place(rule.name, f"param_groups[{k}][{name!r}]")
                place.fail(ValueError, f"{groups[0][name]}, as in the first group", repr(group[name]))


class Listed:
    """These numbers of a stepper, and what groups say of them."""

    def __init__(self, rule: Rule, items: list[Item]) -> None:
        self._rule = rule
        self._starts = {key: rule.starts[name] for name, key in names_of(rule).items()}
        self._arrays: dict[str, Array] = {key: items[0].slots[state_kind(name)] for name, key in names_of(rule).items()}
        self._shown: dict[str, Any] = {}

    def read(self, groups: list[dict[str, Any]]) -> None:
        """Takes what the first group says, if somebody has set it; TypeError or ValueError names what is wrong."""
        first, shown, new = groups[0], self._shown, {}
        for key in self._arrays:
            if first[key] is not shown.get(key):
                new[key] = self._number(key, first[key])
        for key, number in new.items():
            self._arrays[key][...] = number
            shown[key] = first[key]

    def _number(self, key: str, value: Any) -> float:
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        start = self._starts[key]
        return real(Place(self._rule.name, key), value, self._rule.hypers[start] if isinstance(start, str) else FINITE)

    def write(self, groups: list[dict[str, Any]], steps: int) -> None:
        """Tells all groups of these numbers after some steps."""
        self._shown = {key: array.item() for key, array in self._arrays.items()}
        count = int(groups[0][COUNT]) + steps
        for group in groups:
            group.update(self._shown)
            group[COUNT] = count
