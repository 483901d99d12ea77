"""Steps that are one call of the engine, as nearly all are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from fastupdate.arrays.containers import NONE
from fastupdate.step.plan import gil_enabled
from fastupdate.step.report import Report

if TYPE_CHECKING:
    from fastupdate.step.stepper import Stepper

NO_CALLS = {"_calls": None, "again": None}  # of a stepper


class Calls(NamedTuple):
    """Functions that return the report of a step, or None, and nothing has changed, if it needs a closer look.

    bound   the gradients that are at hand; None: those that torch's parameters hold, or none
    once    a step on these, or on a list of gradients that is handed to it
    again   a step like the one before, on these or on what the user hands over, while no other Python thread runs, with
            the arguments of Optimizer.step; None if the engine has no such
    """

    bound: list[Any] | None
    once: Callable[..., Report | None]
    again: Callable[..., Report | None] | None


def calls_of(stepper: Stepper) -> Calls:
    """Those for the stepper's plan, and the gradients that are bound."""
    bound, plan = stepper.bound, stepper.plan
    how = plan.arrays, bound.flat, stepper.sign, Report
    again = None
    if gil_enabled() and (bound.tree is None or bound.flat is not None):
        takes_given = not stepper.settings.zero_grads and len(stepper.items) == len(plan.items)
        form = (stepper.containers.listed, stepper.containers.skeleton) if takes_given else (NONE, None)
        again = plan.engine.repeating(*how, stepper.lock, *form)
    return Calls(bound.flat, plan.engine.stepping(*how), again)
