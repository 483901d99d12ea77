"""Weights that are trained at one point and judged at another, for rules that say how to go from one to the other."""

from __future__ import annotations

from types import SimpleNamespace

from fastupdate.arrays import autograd, device
from fastupdate.arrays.memory import Array, Assignment
from fastupdate.step.calls import NO_CALLS
from fastupdate.step.stepper import Stepper
from fastupdate.step.tensors import Item


def turning(stepper: Stepper, evaluating: bool) -> list[Assignment]:
    """The assignments that make the parameters those of a mode; none if they are, or if the rule has no modes."""
    if stepper.rule.evaluated is None or stepper.evaluating == evaluating:
        return []
    stepper.check(stepper.items)
    new = [device.assignment(item.array, _weights(stepper, item, evaluating)) for item in stepper.items]
    autograd.about_to_write(tensor for item in stepper.items for tensor in item.torch_tensors)
    return [*new, (vars(stepper).update, {"evaluating": evaluating, **NO_CALLS})]


def _weights(stepper: Stepper, item: Item, evaluating: bool) -> Array:
    rule = stepper.rule
    of_mode = rule.evaluated if evaluating else rule.trained
    assert of_mode is not None
    states = [device.on_host(item.states[name]) for name in rule.states_of("element")]
    h = SimpleNamespace(**stepper.hypers.groups[item.row].numbers)
    found: Array = of_mode(h, device.on_host(item.array), *states)
    return found
