"""What packages beside torch call things, of rules that torch has not: arguments, groups and checkpoints of theirs.

Prodigy is `prodigyopt`'s, DAdaptAdam and DAdaptSGD are `dadaptation`'s; `pytorch_optimizer`'s have other names. DoG is
`dog-optimizer`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from fastupdate.arrays.place import Place
from fastupdate.rules.rule import Rule
from fastupdate.torch.names import FIXED, MATCH_RMS, SCALE, STEP
from fastupdate.torch.shards import is_dtensor

NONES = {"prodigy": {"beta3": 0.0}}  # what a None stands for there
FLAT = {"prodigy": ("s", "p0")}  # states that are vectors there
RENAMED = {  # entries of groups in `pytorch_optimizer`
    "dadaptadam": {"weight_decouple": "decouple", "bias_correction": "use_bias_correction", "step": "k"},
    "dadaptsgd": {"step": "k"},
    "dog": {"reps_rel": "relative"},  # in `dog-optimizer`
}
# What groups of a package say if their checkpoints are not taken.
OTHERS = {"dadaptadam": ("fixed_decay",), "dadaptsgd": ("fixed_decay", "weight_decouple")}


def check_fixed(rule: Rule, values: Mapping[str, Any]) -> None:
    """ValueError if a group has another value of such an argument."""
    for name, (value, why) in FIXED.get(rule.name, {}).items():
        if name in values and values[name] != value:
            Place(rule.name, name).fail(ValueError, f"{value} ({why})", repr(values[name]))


def as_here(rule: Rule, group: Mapping[str, Any]) -> dict[str, Any]:
    """What a group says, in the words that it has here: the scale of Muon's steps, and numbers for what is None."""
    said: dict[str, Any] = {
        name: number for name, number in NONES.get(rule.name, {}).items() if group.get(name, number) is None
    }
    scale = group.get(SCALE)
    if rule.name == "muon" and scale in ("original", MATCH_RMS):
        if scale != MATCH_RMS and group.get(MATCH_RMS):
            Place(rule.name, SCALE).fail(ValueError, f"None or '{MATCH_RMS}', for {MATCH_RMS} is True", repr(scale))
        said |= {MATCH_RMS: scale == MATCH_RMS, SCALE: None}
    return {**group, **said}


def as_theirs(rule: Rule, group: dict[str, Any], entries: Iterable[Any]) -> None:
    """Gives what is saved of a group and of its parameters what it has there. DTensors stay as they are."""
    if rule.name == "muon" and group[MATCH_RMS]:
        group[SCALE] = MATCH_RMS
    group |= {name: None for name, number in NONES.get(rule.name, {}).items() if group[name] == number}
    for entry in entries:
        for name in FLAT.get(rule.name, ()):
            if isinstance(entry, dict) and name in entry and not is_dtensor(entry[name]):
                entry[name] = entry[name].reshape(-1)
        if rule.name == "dadaptsgd" and group["shrink"] and "z" in entry and not is_dtensor(entry["z"]):
            group["g0_norm"] = 1 / group["shrink"]
            entry["s"] = entry["z"] * group["shrink"]


def from_theirs(
    rule_of: Callable[[Mapping[str, Any]], Rule], saved: Mapping[str, Any], params: list[Any]
) -> dict[str, Any]:
    """What was saved, as it is here; all that is not of a package's stays as it is."""
    groups, state, rest = [], dict(saved["state"]), iter(params)
    for theirs in saved["param_groups"]:
        rule = rule_of(theirs)
        group = {RENAMED.get(rule.name, {}).get(name, name): value for name, value in theirs.items()}
        for name in OTHERS.get(rule.name, ()):
            if group.get(name):
                place = Place(rule.name, f"state_dict['param_groups'][…][{name!r}]")
                place.fail(ValueError, f"none (fu.torch.{rule.formula.__name__} takes no such state)", "one")
        group = as_here(rule, group)
        groups.append(group)
        if rule.name == "dog" and "init_eta" in group:
            state = _of_dog(rule, group, state, len(saved["param_groups"]))
        if (norm := group.pop("g0_norm", None)) and rule.name == "dadaptsgd":
            group.setdefault("shrink", 1 / norm)
        for key, p in zip(group["params"], rest, strict=False):  # torch says if there are more or fewer
            if isinstance(state.get(key), dict):
                state[key] = dict(_entry(rule, group, state[key], p))
    return {**saved, "state": state, "param_groups": groups}


def _entry(rule: Rule, group: dict[str, Any], entry: Mapping[str, Any], p: Any) -> Iterator[tuple[str, Any]]:
    if "k" in group and STEP not in entry:
        yield STEP, torch.tensor(float(group["k"]), device="cpu")
    for name, value in entry.items():
        if name in FLAT.get(rule.name, ()) and not is_dtensor(value):
            yield name, value.expand(p.numel()).reshape(p.shape)  # one zero stands for zeros there
        elif rule.name != "dadaptsgd" or name != "s":
            yield name, value
    if rule.name == "dadaptsgd" and "s" in entry and "shrink" in group:
        yield from _of_sgd(group, entry)


def _of_sgd(group: Mapping[str, Any], entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """DAdaptSGD's sum of gradients, which is divided by the first one's norm there, where z is another tensor."""
    own = entry["z"] * group["shrink"] == entry["s"]  # nobody has taken a step since it was saved here
    yield "z", torch.where(own, entry["z"], entry["s"] / group["shrink"])
    if not own.all():
        yield STEP, torch.tensor(float(group["k"]), device="cpu")


def _of_dog(rule: Rule, group: dict[str, Any], state: Mapping[str, Any], groups: int) -> dict[str, Any]:
    """DoG's state, all of which is in the group there; into that go the numbers of the whole list."""
    place = Place(rule.name, "state_dict['param_groups']")
    if groups > 1:
        place.fail(ValueError, "one group (there each has a distance of its own)", str(groups))
    eta = group.pop("init_eta")
    group["first_rate"] = 0.0 if eta is None else eta
    if state["_first_step"]:
        return {}
    r, squares = group.pop("rbar"), group.pop("G")
    if r.dim():
        place.fail(ValueError, "DoG's, one distance of all parameters", "LDoG's, one of each")
    group |= {"r": float(r), "squares": float(squares) - group["eps"], "rate": float(group.pop("eta")[0]), "k": 1}
    return {key: {"p0": weights} for key, weights in zip(group["params"], group.pop("init_buffer"), strict=True)}
