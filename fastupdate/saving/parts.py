"""The state of a partition ↔ those of its rules: "parts" has one for each rule, "arrays" the arrays of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastupdate.arrays.place import Place
from fastupdate.saving import state as saving
from fastupdate.saving.checks import Rename, check_ours
from fastupdate.saving.loading import Loaded, Loading, loading
from fastupdate.step.stepper import Stepper


def joined(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The state of a partition, from those of its rules; each tensor has one rule, so that no two keys are the same."""
    arrays = {key: array for state in states for key, array in state.pop("arrays").items()}
    return {"version": saving.VERSION, "parts": states, "arrays": arrays}


def loading_all(steppers: list[Stepper], state: Any, *, strict: bool, rename: Rename | None) -> Loading:
    """Checks a state against the rules of a partition, and makes all that taking it over needs; changes nothing."""
    states, renamed = _apart(state, len(steppers)), _renaming(state, rename)
    pairs = zip(steppers, states, strict=True)
    new = [loading(stepper, own, strict=strict, rename=renamed) for stepper, own in pairs]
    return Loading(
        Loaded(*map(_keys, zip(*(each.report for each in new), strict=True))),
        [assignment for each in new for assignment in each.assignments],
        [schedule for each in new for schedule in each.schedules],
    )


def _place(argument: str) -> Place:
    return Place("partition", argument)


def _apart(state: Any, count: int) -> list[dict[str, Any]]:
    """The states of the rules."""
    place = _place("state_dict")
    check_ours(place, state)
    if not isinstance(state, Mapping) or state.keys() != {"version", "parts", "arrays"}:
        place.fail(ValueError, "the keys version, parts, arrays", repr(sorted(state)) if state else repr(state))
    parts, arrays = state["parts"], state["arrays"]
    if len(parts) != count:
        place.fail(ValueError, f"the states of {count} rules", f"{len(parts)} of them")
    return [
        {**part, "arrays": {key: array for key, array in arrays.items() if saving.split(key)[1] in part["tensors"]}}
        for part in parts
    ]


def _renaming(state: Mapping[str, Any], rename: Rename | None) -> Rename | None:
    """Mappings of names as functions, for each rule has some of the names only."""
    if not isinstance(rename, Mapping):
        return rename
    unknown = rename.keys() - {name for part in state["parts"] for name in part["tensors"]}
    if unknown:
        _place("rename").fail(ValueError, "names of tensors in the state", repr(min(unknown)))
    return lambda name: rename.get(name, name)


def _keys(of_rules: Iterable[list[str]]) -> list[str]:
    """What the rules report, under one name each: keys that every rule has get the number of theirs."""
    common = ("groups[", "limits.", "outliers")
    return [f"parts[{k}].{key}" if key.startswith(common) else key for k, keys in enumerate(of_rules) for key in keys]
