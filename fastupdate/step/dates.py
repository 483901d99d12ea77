"""Who moves from when on: the dates of tensors (`frozen_until`), and the count of steps that they go by."""

from __future__ import annotations

from operator import setitem
from typing import TYPE_CHECKING

from fastupdate.arrays.memory import Assignment
from fastupdate.engines.records import STEPS

if TYPE_CHECKING:
    from fastupdate.step.stepper import Stepper


def thaw(stepper: Stepper) -> None:
    """Plans anew if the next step is to move a tensor whose date has come: until then it is looked at as frozen."""
    taken = int(stepper.clock[STEPS])
    if any(item.frozen and taken >= item.frozen_until for item in stepper.items):
        stepper.replan()


def starting_at(stepper: Stepper, step: int) -> list[Assignment]:
    """The assignments of a step count, which is that of each tensor that is not frozen; ValueError while there are
    micro-batches. Tensors whose date is then ahead, or past, freeze or thaw."""
    stepper.micro_batches.check_none("step")
    thaw(stepper)
    taken = step - 1
    clock = (setitem, stepper.clock, STEPS, taken)
    if any(item.frozen != (taken < item.frozen_until) for item in stepper.items):
        stepper.plan.keep_times()
        items = [item.but(t=item.t if item.frozen else taken) for item in stepper.items]
        return [*stepper.replanning(items, taken), clock]
    counts = [(setattr, item, "t", taken) for item in stepper.plan.unfrozen]  # of those without a gradient too
    return [clock, (setitem, stepper.plan.groups, "t", taken), *counts]
