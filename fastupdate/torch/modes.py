"""Weights that are trained at one point and judged at another (step/modes.py), in torch's own tensors."""

from __future__ import annotations

from operator import setitem
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from fastupdate.arrays.memory import Assignment
from fastupdate.arrays.place import Place
from fastupdate.step.transaction import at_once
from fastupdate.torch.names import state_names
from fastupdate.torch.numbers import checked, number_in_group

if TYPE_CHECKING:
    from fastupdate.torch.optimizer import Optimizer

TRAIN_MODE = "train_mode"  # the entry of a group that says which weights its parameters hold


@torch.no_grad()
def turn(optimizer: Optimizer, train_mode: bool) -> None:
    """Makes the parameters those of a mode, where they are not yet; of rules that have no modes no group has one."""
    new: list[Assignment] = []
    for group in optimizer.param_groups:
        if group.get(TRAIN_MODE, train_mode) != train_mode:
            new += [(p.detach().copy_, _weights(optimizer, group, p, train_mode)) for p in group["params"]]
            new.append((setitem, group, TRAIN_MODE, train_mode))
    at_once(new)


def check_mode(optimizer: Optimizer) -> None:
    """ValueError if some parameters hold the weights to judge a model by, at which no gradient is to be taken."""
    if not all(group.get(TRAIN_MODE, True) for group in optimizer.param_groups):
        expected = "the mode of training (call train() first)"
        Place(optimizer.rule.name, "step").fail(ValueError, expected, "that of eval()")


def _weights(optimizer: Optimizer, group: dict[str, Any], p: Any, train_mode: bool) -> Any:
    """The weights of a mode; before the first step both modes have the same."""
    rule = optimizer.rule
    names, entry = state_names(rule), optimizer.state.get(p, {})
    states = [dict.get(entry, names[name]) for name in rule.states_of("element")]
    if any(state is None for state in states):
        return p
    values = checked(rule, group)
    numbers = {hyper: number_in_group(rule, values, hyper) for hyper in rule.hypers}
    of_mode = rule.trained if train_mode else rule.evaluated
    assert of_mode is not None
    return of_mode(SimpleNamespace(**numbers), p, *states)
