"""Parameter groups: which of their entries a step reads, and what these may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

import torch

from fastupdate.arrays.numbers import real, switch
from fastupdate.arrays.place import Place
from fastupdate.optimizers import arguments
from fastupdate.rules.rule import Rule, given_together
from fastupdate.step.hypers import CLIP, CLIP_LIMITS, SHARED, clip_limits
from fastupdate.step.options import DecayMode, Options, Settings
from fastupdate.torch.names import FIXED, SPACINGS
from fastupdate.torch.packages import as_here, check_fixed

SWITCHES: dict[str, Any] = {
    "maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": None,
}  # fmt: skip
REFUSED = ("capturable", "differentiable")
ROUNDING = (
    1e-12  # how far below zero a learning rate may be: LinearLR's recursion ends at −1e-19, say, where it means 0
)
DECOUPLED = "decoupled_weight_decay"  # whether weights shrink by it, which torch's groups say where its rule has both


def keys_of(rule: Rule, group: Mapping[str, Any]) -> list[str]:
    """The entries of a group that a step reads, lr first."""
    optional = [key for key in (*SHARED, DECOUPLED, *FIXED.get(rule.name, ())) if key in group]
    first = sorted(arguments(rule), key=lambda name: name != "lr")  # which changes most often
    return [*first, "maximize", *REFUSED, *optional]


def reader(keys: list[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """A function of a group: its values."""
    read: Callable[[Mapping[str, Any]], tuple[Any, ...]] = itemgetter(*keys)
    return read


def checked(rule: Rule, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a group as numbers and truth values; TypeError or ValueError names the first that is wrong.

    "params" are looked at where None stands for the spacing of their type
    """
    for name in REFUSED:
        if values.get(name):
            Place(rule.name, name).fail(ValueError, "False", repr(values[name]))
    values = as_here(rule, values)
    check_fixed(rule, values)
    values = _spaced(rule, values)
    numbers = {name: checked_one(rule, name, values[name]) for name in (*arguments(rule), *SHARED) if name in values}
    problem = rule.check(numbers)
    if problem:
        raise ValueError(f"[{rule.name}] {problem}")
    decoupled = values.get(DECOUPLED, rule.decoupled_decay) if "weight_decay" in rule.hypers else rule.decoupled_decay
    switches = {"maximize": values.get("maximize", False), DECOUPLED: decoupled}
    return numbers | {name: switch(Place(rule.name, name), value) for name, value in switches.items()}


def _spaced(rule: Rule, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values with a number for a None that torch has for it."""
    hyper = SPACINGS.get(rule.name)
    if hyper is None:
        return values
    alias = name_in_group(rule, hyper)
    parts, pair = rule.aliases[alias], values.get(alias)
    if not isinstance(pair, (tuple, list)) or len(pair) != len(parts) or pair[parts.index(hyper)] is not None:
        return values
    types = {p.dtype for p in values.get("params", ())} or {torch.float32}
    if len(types) > 1:
        expected = f"a number for {hyper}, in a group of several types"
        Place(rule.name, alias).fail(ValueError, expected, repr(pair))
    spacing = torch.finfo(types.pop()).eps
    return {**values, alias: tuple(spacing if part == hyper else x for part, x in zip(parts, pair, strict=True))}


def check_own(rule: Rule, group: Mapping[str, Any]) -> None:
    """ValueError if a group holds an option that is one for all groups; what else it holds is its owner's."""
    for name in Options.__annotations__.keys() - {*SHARED, *arguments(rule), "maximize"}:
        if name in group:
            expected = f"an argument of {rule.formula.__name__}, for all groups"
            Place(rule.name, name).fail(ValueError, expected, f"{group[name]!r} for a group")


def decay_of(rule: Rule, decoupled: bool, option: DecayMode | None) -> DecayMode | None:
    """The option `decay` that groups ask for; ValueError if another one was given beside."""
    if decoupled == rule.decoupled_decay:
        return option
    asked: DecayMode = "decoupled" if decoupled else "coupled"
    if option not in (None, asked):
        Place(rule.name, "decay").fail(ValueError, f"None, for {DECOUPLED} is {decoupled}", repr(option))
    return asked


def check_options(rule: Rule, values: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """ValueError for an option that does not go with the checked values of a group."""
    settings = Settings(rule.name, **{**options, "decay": decay_of(rule, values[DECOUPLED], options.get("decay"))})
    settings.check_decay(rule)
    if "weight_decay" in rule.hypers:
        real(Place(rule.name, "weight_decay"), values["weight_decay"], settings.intervals(rule)["weight_decay"])


def checked_one(rule: Rule, name: str, value: Any) -> Any:
    """One value of a group, as a number, a truth value or several numbers."""
    place = Place(rule.name, name)
    if name in rule.flags:
        return switch(place, value)
    parts = rule.aliases.get(name)
    if parts is not None:
        try:
            numbers = given_together(place, parts, tuple(value))
        except TypeError:  # of what is no sequence, a tensor of no axes among them
            numbers = given_together(place, parts, value)
        return tuple(checked_one(rule, part, number) for part, number in zip(parts, numbers, strict=True))
    if name == CLIP and isinstance(value, (tuple, list)):
        limits = clip_limits(place, value)
        return tuple(checked_one(rule, part, limits[part]) for part in CLIP_LIMITS)
    if callable(value):
        place.fail(TypeError, "a number, set by a scheduler of torch's", repr(value))
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if name == "lr" and isinstance(value, float) and -ROUNDING < value < 0:
        value = 0.0
    return real(place, value, rule.hypers[name] if name in rule.hypers else SHARED[name][1])


def is_zero(value: Any) -> bool:
    """Whether a number in a group is 0; what is no number is not, and the closer look says so, to all ranks."""
    try:
        return float(value) == 0
    except (RuntimeError, TypeError, ValueError):
        return False


def name_in_group(rule: Rule, hyper: str) -> str:
    """What a group has a number under: its own name, or that of several together, as `betas`."""
    return next((alias for alias, parts in rule.aliases.items() if hyper in parts), hyper)


def number_in_group(rule: Rule, values: Mapping[str, Any], hyper: str) -> Any:
    name = name_in_group(rule, hyper)
    return values[name] if name == hyper else values[name][rule.aliases[name].index(hyper)]


def changes_in_place(values: tuple[Any, ...]) -> bool:
    """Whether a value could become another one while it stays the same object: a tensor, or a sequence of them."""
    return any(
        isinstance(value, (torch.Tensor, list)) or (isinstance(value, tuple) and changes_in_place(value))
        for value in values
    )
