"""Steps that a device decides about: only it knows whether they were skipped, until somebody asks."""

from __future__ import annotations

import math
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fastupdate.arrays import autograd
from fastupdate.arrays.memory import Assignment
from fastupdate.engines import records
from fastupdate.engines.protocol import Judge
from fastupdate.engines.records import STEPS
from fastupdate.step import extents
from fastupdate.step.decide import raise_nonfinite
from fastupdate.step.report import Report
from fastupdate.step.transaction import in_turn
from fastupdate.step.whole import WholeStep

if TYPE_CHECKING:
    from fastupdate.step.stepper import Stepper


class Undecided:
    """The steps of which it is open whether the device has skipped them. The stepper whose they are has this.

    steps  they, in their order (`StepOfDevice`)
    """

    def __init__(self) -> None:
        self.steps: list[Any] = []

    def take(self, stepper: Stepper, step: WholeStep) -> Report:
        """A step on a device, which looks at the gradients itself: the report waits for it, this call does not."""
        stepper.skips.check()
        engine = cast(Judge, stepper.engine)
        if stepper.settings.nonfinite == "raise":
            stepper.plan.measure()
            try:
                raise_nonfinite(stepper.plan)
            except FloatingPointError:
                in_turn(step.dropping())
                raise
        taken = self._step(stepper, engine.derive_possible(len(self.steps)), step.unclipped)
        autograd.about_to_write([*stepper.plan.written, *step.written])
        if stepper.rule.matrix is None:
            judged, *after = engine.judged_update(step.scale, stepper.sign, step.off, taken.outcome)
            in_turn([judged, *self._noting(stepper, taken), *after])
        else:
            engine.judge(step.scale, stepper.sign, step.off, taken.outcome)
            extents.multiply(stepper.rule, stepper.flags, stepper.plan)
            in_turn([*engine.finishing(), *self._noting(stepper, taken)])
        taken.count(int(stepper.clock[STEPS]))
        return Report.of(taken)

    def _step(self, stepper: Stepper, lrs: list[float], unclipped: NDArray[np.float64] | float) -> Any:
        """The step after this one, before it is taken."""
        from fastupdate.engines import cuda

        watched = cuda.Watched(
            stepper.plan.names,
            stepper.plan.sizes,
            unclipped,
            stepper.sign * stepper.rule.momentum_sign,
        )
        steps = int(stepper.clock[STEPS]) + 1
        outcome = cast(Judge, stepper.engine).outcome(stepper.plan.settings)
        return cuda.StepOfDevice(outcome, steps, lrs, self.steps[:], stepper.engine, stepper.settings, watched)

    def _noting(self, stepper: Stepper, taken: Any) -> list[Assignment]:
        """Notes that a step may have been skipped, unless it was only captured."""
        if stepper.settings.nonfinite != "skip":
            return []
        return [(self.steps.extend, filter(attrgetter("outcome.fetched"), [taken]))]

    def settle(self, stepper: Stepper, undecided: int = 0) -> None:
        """Takes back the counts of steps that the device has skipped; waits for all but the last `undecided` ones."""
        if stepper.settings.scheduled or any(
            0 < item.frozen_until < math.inf and item.frozen for item in stepper.items
        ):
            undecided = 0  # which tensors move, or what they are clipped to, depends on the step
        while self.steps and (len(self.steps) > undecided or self.steps[0].ready):
            skipped = self.steps[0].settle()  # which is an error if its graph has yet to be launched
            del self.steps[0]
            stepper.skips.note(skipped)
            if skipped:
                stepper.clock[STEPS] -= 1
                stepper.plan.groups["t"] -= 1

    def before_replay(self, stepper: Stepper, loss_scale: float) -> Report:
        """Makes a captured step the next one; see `Optimizer.before_replay`."""
        with stepper.exclusive(records.MOST_UNDECIDED):
            engine = cast(Judge, stepper.engine)
            if not engine.judges or stepper.rule.matrix is not None:
                expected = "a step on the backend 'cuda' of a rule that multiplies no matrices"
                stepper.place("before_replay").fail(TypeError, expected, repr(stepper.backend.NAME))
            stepper.check_mode()
            stepper.skips.check()
            stepper.derive()
            scale = stepper.micro_batches.scale(loss_scale, stepper.plan.dtype)
            lrs = engine.derive_possible(len(self.steps))
            taken = self._step(stepper, lrs, scale * stepper.plan.tensors["scale"])
            autograd.about_to_write(stepper.plan.written)
            replayed = engine.prepare_replay(scale, stepper.sign, taken.outcome)
            noting = [(self.steps.append, taken)] if stepper.settings.nonfinite == "skip" else []
            in_turn([replayed, *noting])
            taken.count(int(stepper.clock[STEPS]))
            return Report.of(taken)
