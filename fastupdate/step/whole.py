"""A step in its parts: gradients checked, decided upon, moved by. Several steppers can so take one together."""

from __future__ import annotations

from collections.abc import Sequence
from operator import setitem
from typing import TYPE_CHECKING, Any

from fastupdate.arrays import autograd, overlap
from fastupdate.arrays.memory import Assignment
from fastupdate.engines import records
from fastupdate.engines.records import MICRO_BATCHES
from fastupdate.step import extents
from fastupdate.step.decide import Outcome, Overall, condition, sum_up
from fastupdate.step.gradients import Reduce
from fastupdate.step.plan import Plan
from fastupdate.step.report import Report, Statistics
from fastupdate.step.tensors import ACCUMULATOR
from fastupdate.step.transaction import in_turn

if TYPE_CHECKING:
    from fastupdate.step.stepper import Stepper


class WholeStep:
    """A step whose gradients have been checked and taken in; nothing of the user's has changed.

    scale      what turns gradients into those that move weights, and `unclipped` with the factors of single tensors
    off        stages to leave out
    written    torch's gradients that are to be zeroed
    """

    def __init__(self, stepper: Stepper, grads: Any, loss_scale: float, reduce: Reduce | None, loss: Any) -> None:
        self._stepper = stepper
        self._loss = None if loss is None else stepper.skips.measured(loss)
        accumulated = bool(stepper.clock[MICRO_BATCHES])
        if accumulated and grads is not None:
            stepper.place("grads").fail(ValueError, "None, for micro-batches were accumulated", "gradients")
        self.off = records.ZERO_GRADS if accumulated else 0
        reduce = None if accumulated else reduce
        if accumulated:
            grads = [item.slots[ACCUMULATOR] for item in stepper.plan.items]
        self.written = stepper.adopt(grads, reduce, accumulated)
        self.scale = stepper.micro_batches.scale(loss_scale, stepper.plan.dtype)
        factors = stepper.plan.tensors["scale"]
        self.unclipped = self.scale * factors if reduce else self.scale  # a new array: clipping changes it
        self._lr = stepper.engine.lr

    @property
    def plan(self) -> Plan:
        return self._stepper.plan

    def decide(self, overall: Overall | None) -> Outcome:
        """Whether the step is to be taken, and by how much its gradients are clipped, by what all come to."""
        return condition(self._stepper.plan, self.scale, self._stepper.skips.outliers, self._loss, overall)

    def dropping(self, counting: Sequence[Assignment] = ()) -> list[Assignment]:
        """The calls that drop the gradients: NaN in accumulated or accumulating ones would come back in later steps."""
        clearing: list[Assignment] = []
        if self._stepper.settings.zero_grads and not self.off:
            autograd.about_to_write(self.written)
            clearing.append((self._stepper.engine.clear_gradients,))
        return [*clearing, (setitem, self._stepper.clock, MICRO_BATCHES, 0), *counting]

    def skipping(self, outcome: Outcome) -> list[Assignment]:
        """The calls that leave the step out."""
        return self.dropping(self._stepper.skips.taking(outcome))

    def moving(self, outcome: Outcome) -> list[Assignment]:
        """The calls that move all tensors and count the step, after all that comes before."""
        stepper = self._stepper
        autograd.about_to_write([*stepper.plan.written, *self.written])
        scale = self.scale * outcome.factor * stepper.sign
        taking = stepper.skips.taking(outcome) if stepper.settings.needs_sums else []
        if stepper.rule.matrix is None:
            return [(stepper.engine.update, scale, self.off), *taking]
        stepper.engine.measure(scale, self.off)
        return [*extents.multiply(stepper.rule, stepper.flags, stepper.plan), (stepper.engine.finish,), *taking]

    def watched(self) -> Statistics | None:
        """What was watched in the step that was taken."""
        plan, sign = self._stepper.plan, self._stepper.sign * self._stepper.rule.momentum_sign
        if not self._stepper.settings.monitor:
            return None
        return plan.recent_sums.statistics(plan.engine, plan.names, plan.sizes, self.unclipped, sign)

    def check(self, outcome: Outcome) -> None:
        """FloatingPointError if the step was left out, and was one too many."""
        if outcome.reason:
            self._stepper.skips.check_taken(outcome, self._stepper.plan)

    def report(self, outcome: Outcome, watched: Statistics | None) -> Report:
        """What came of it."""
        count = int(self._stepper.clock[records.STEPS])
        return Report(count, self._lr, outcome.grad_norm, outcome.factor, outcome.nonfinite, outcome.reason, watched)


def check_apart(plans: Sequence[Plan]) -> None:
    """ValueError if tensors of several plans share memory; where one is made anew, a parameter may lie elsewhere."""
    beside = [plan.number for plan in plans[1:]]
    if beside != plans[0].apart_from:
        items = [item for plan in plans for item in plan.items]
        overlap.check_overlaps([item.array for item in items], lambda k: items[k].place)
        plans[0].apart_from = beside


def take(steps: Sequence[WholeStep]) -> tuple[Outcome, list[Statistics | None]]:
    """Takes the steps of several steppers as one, by the norm of all gradients: wholly or not at all."""
    check_apart([step.plan for step in steps])
    try:
        overall = sum_up([step.plan for step in steps]) if steps[0].plan.settings.needs_sums else None
        outcomes = [step.decide(overall) for step in steps]
    except FloatingPointError:
        in_turn([call for step in steps for call in step.dropping()])
        raise
    skipped = outcomes[0].reason is not None
    pairs = list(zip(steps, outcomes, strict=True))
    in_turn([call for step, o in pairs for call in (step.skipping(o) if skipped else step.moving(o))])
    for step, outcome in pairs:
        step.check(outcome)
    return outcomes[0], [None if skipped else step.watched() for step in steps]
