"""The stepper: plan (what), hyperparameters (how) and engine (who) of one optimizer, and the life of a step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from operator import setitem
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastupdate.arrays import accept, autograd
from fastupdate.arrays.containers import Containers
from fastupdate.arrays.memory import Array, Assignment
from fastupdate.arrays.place import Place
from fastupdate.engines import forks, records
from fastupdate.engines.choose import choose
from fastupdate.engines.protocol import Engine
from fastupdate.engines.records import MICRO_BATCHES, STEPS, Given, Records
from fastupdate.rules.rule import Rule
from fastupdate.step import dates, gradients, held, slots
from fastupdate.step.calls import NO_CALLS, Calls, calls_of
from fastupdate.step.decide import Skips
from fastupdate.step.gradients import Reduce
from fastupdate.step.hypers import Hypers, of_groups
from fastupdate.step.options import Settings
from fastupdate.step.plan import Plan
from fastupdate.step.report import Report
from fastupdate.step.tensors import ACCUMULATOR, Item, check_tree, make_items, rebound, sort_into, sources, uncollected
from fastupdate.step.transaction import at_once, in_turn
from fastupdate.step.undecided import Undecided
from fastupdate.step.whole import WholeStep, take


class BusyError(RuntimeError):
    """Another call on the same optimizer is running."""


class Stepper:
    """Takes the steps of an optimizer.

    tree, items    the parameters as the user gave them, and flat
    hypers         groups, and the tables of their schedules
    flags          options of the rule that change its states or equations
    clock          steps taken, micro-batches accumulated since, revision of what the user set
    plan, engine   the records of the tensors that move now, and what runs them
    bound          gradient buffers that `bind` named
    walks_memory   dense tensors are walked in the order of memory; sums over ranges want the logical order
    undecided      steps of which only the device knows whether they were skipped
    skips          how many steps were skipped in a row, and what outliers are judged by
    evaluating     the parameters hold the weights to judge a model by, and there are no steps (step/modes.py)
    """

    plan: Plan  # these five are replaced together, and items with them
    engine: Engine
    _taken: Given  # what the engine reads
    again: Callable[..., Report | None] | None  # a step like the last one, if that was of one call; None: look closer
    _calls: Calls | None

    @uncollected
    def __init__(
        self,
        rule: Rule,
        params: Any,
        hypers: Mapping[str, Any],
        flags: Mapping[str, bool],
        options: Mapping[str, Any],
        lend: Callable[[Stepper], None] | None = None,
        follow: Callable[[list[Item]], list[Assignment]] = slots.lie_down,
    ) -> None:
        """lend: gives each item its arrays, memory order and step count, which stay the face's; None: new arrays
        follow: lets what belongs to the items lie as parameters do that were given other memory; what is to be assigned
        """
        self.rule = rule
        self._follow = follow
        self.settings = Settings(rule.name, **options)
        self.settings.check_decay(rule)
        self.clock = np.zeros(3, np.int64)
        self._now = self.clock.data  # which Python reads sooner
        self.tree = params
        self.items = make_items(rule.name, params)
        named = sources(self.items)
        self.containers = Containers(params)
        self.backend = choose(rule, self.settings.backend, self.items[0].array)
        self.lock = threading.Lock()  # of calls
        self.caller, self.lent = 0, False  # who took it last; whether ema_weights has it
        forks.heed(self)
        self.sign = -1.0 if self.settings.maximize else 1.0
        self.undecided = Undecided()
        self.skips = Skips(self.settings)
        self.evaluating = False
        self.micro_batches = gradients.MicroBatches(rule.name, self.clock)
        self.bound = gradients.Bound()
        self._held: list[Array] = []  # gradients that the engine may be reading
        self.hypers = Hypers(rule, self.settings, of_groups(rule, named, self.settings, hypers), self.clock)
        self.flags = self.hypers.flags(flags)
        self.hypers.settle(self.flags)
        sort_into(self.items, self.hypers.groups)
        self.walks_memory = self.backend.WALKS_MEMORY and not (rule.phases or self.settings.measuring)
        if lend is None:
            kept = rule.kept(self.flags)
            slots.provide(self.items, rule, kept, self.settings, self.hypers.groups, self.walks_memory)
        else:
            lend(self)
            self.clock[STEPS] = max(item.t for item in self.items)
        vars(self).update(self._planned(self.items))
        self.derive()

    def place(self, argument: str) -> Place:
        """Names an argument in messages."""
        return Place(self.rule.name, argument)

    # -- construction -------------------------------------------------------------------------------------------------

    def _planned(self, items: list[Item]) -> dict[str, Any]:
        """The attributes that belong to a plan for these items, made beside those that there are."""
        plan = Plan(self.rule, self.flags, self.settings, items, self.clock, self.backend, self.containers)
        plan.engine.take(self.hypers.given)
        return {"items": items, "plan": plan, "engine": plan.engine, "_taken": self.hypers.given, **NO_CALLS}

    def replanning(self, items: list[Item], step: int) -> list[Assignment]:
        """Makes a plan for these items, which are new ones, after `step` steps; the assignments put it in place."""
        for item in items:
            item.frozen = step < item.frozen_until
        return [(vars(self).update, self._planned(items)), (setattr, self.bound, "flat", None)]

    def replan(self) -> None:
        """Plans anew for the tensors that move in the next step."""
        self.plan.keep_times()
        at_once(self.replanning([item.but() for item in self.items], self.step_count))

    # -- hyperparameters ----------------------------------------------------------------------------------------------

    def derive(self) -> None:
        """Takes in the hyperparameters of the next step; raises before anything is touched."""
        now = self.settings.at(int(self.clock[STEPS])) if self.settings.scheduled else self.settings
        if self.hypers.impure:
            self._look_up(self._now[STEPS])
        while not self.engine.derive():
            dates.thaw(self)
            self._look_up(self._now[STEPS])
            if self.engine.derive():
                break
            for group in self.hypers.groups:
                held.check_hypers(self.rule.name, group.numbers, self.plan.dtype)
        self.plan.settings = now

    def _look_up(self, step: int) -> None:
        """Sees to it that the engine has the values of schedules in the step after `step` steps."""
        given = self.hypers.prepare(step, len(self.undecided.steps))
        if self._taken is not given:
            self.engine.take(given)
            self._taken = given

    # -- the step -----------------------------------------------------------------------------------------------------

    def exclusive(self, undecided: int = 0) -> threading.Lock:
        """The lock to hold during a call; to be taken by `with`, lest Ctrl-C come between taking and freeing.

        undecided: of how many steps it may stay open whether the device has skipped them
        """
        if self.lock.locked():
            forks.let_pass()
            if self.lock.locked():
                raise BusyError(
                    f"[{self.rule.name}] busy: another call, or ema_weights(), is running on this optimizer"
                )
        if self.undecided.steps:
            self.undecided.settle(self, undecided)
        self.hypers.forget()
        self.caller = threading.get_ident()
        return self.lock

    def step(self, grads: Any, loss_scale: float, reduce: Reduce | None, loss: Any = None) -> Report:
        """One step; the arguments are those of `Optimizer.step`."""
        plain = type(loss_scale) is float and loss_scale == 1.0 and reduce is None and loss is None
        at_once = self.plan.limit is None or self._judged_at_once()
        self.again = None
        with self.exclusive(records.MOST_UNDECIDED):
            self.check_mode()
            if plain and at_once and self.plan.simple and not self._now[MICRO_BATCHES]:
                report = self._simple_step(grads)
                if report is not None:
                    return report
            try:
                self.derive()
                return self._whole_step(grads, loss_scale, reduce, loss)
            finally:
                self.let_go()

    def _judged_at_once(self) -> bool:
        """Whether the call that moves tensors may judge their gradients: nobody else knows more of them, or counts."""
        return not self.plan.measured and self.plan.sums_of_all is None and not self.skips.count

    def _simple_step(self, grads: Any) -> Report | None:
        """A step in one call of the engine; None, and nothing has changed, if it needs a closer look."""
        if self.hypers.impure:
            self._look_up(self._now[STEPS])
        given: list[list[Any]] = []
        if grads is not None:
            # Gradients that are to be zeroed may be one and the same; of a device's arrays engines read torch's alone.
            if self.settings.zero_grads or (self.plan.queued and not self.plan.own_gradients):
                return None
            given = [gradients.collect(grads, self.containers, self.items, self.plan)]
            self._held = given[0] if self.plan.queued else []
        elif not self.bound.at_hand(self.plan):
            return None
        if self._calls is None or self._calls.bound is not self.bound.flat:
            self._calls = calls_of(self)
        report = self._calls.once(*given)
        if report is not None and not self.hypers.impure:
            self.again = self._calls.again
        return report

    def check_mode(self) -> None:
        """ValueError if the parameters hold the weights to judge a model by, at which no gradient is taken."""
        if self.evaluating:
            self.place("step").fail(ValueError, "the mode of training (call train() first)", "that of eval()")

    def let_go(self) -> None:
        """Gradients are the user's to free; those that a device may still be reading are held until the next call."""
        self.plan.forget_rows()
        if not self.plan.queued:
            self._held = []

    def _collect(self, grads: Any, reduce: Reduce | None = None) -> list[Any]:
        """Gradients in the order of the plan, which is another one afterwards if other tensors have none now."""
        if grads is None:
            bound = self.bound.current(self._collect, lambda: self.plan, self._checked)
            if bound is not None:
                return bound
            found = gradients.held_by(self.plan)
        else:
            found = gradients.collect(grads, self.containers, self.items, self.plan)
        if self.settings.missing == "raise" or not (self.plan.partial or gradients.some_missing(found)):
            return found
        return self._rest(found, reduce)

    def _rest(self, found: list[Any], reduce: Reduce | None) -> list[Any]:
        """Lets the tensors rest that have no gradient, and no other; returns the gradients of those that move.

        Between micro-batches a tensor that had one goes on by zeros, and one that has its first joins.
        """
        accumulating, unfrozen = bool(self.clock[MICRO_BATCHES]), self.plan.unfrozen
        for k, item in enumerate(unfrozen):
            if accumulating and found[k] is None and not item.resting:
                found[k] = slots.zeros(item)[None] if reduce else slots.zeros(item)
        resting = {item.path: g is None for item, g in zip(unfrozen, found, strict=True)}
        if any(item.resting != resting[item.path] for item in unfrozen):
            self.undecided.settle(self)
            self.plan.keep_times()
            items = [i.but(resting=resting.get(i.path, False), slots=dict(i.slots)) for i in self.items]
            for old, new in zip(self.items, items, strict=True):
                if accumulating and old.resting:
                    new.slots.pop(ACCUMULATOR, None)
            at_once(self.replanning(items, self.step_count))
            self.derive()
        return [g for g in found if g is not None]

    def _whole_step(self, grads: Any, loss_scale: float, reduce: Reduce | None, loss: Any) -> Report:
        step = WholeStep(self, grads, loss_scale, reduce, loss)
        if self.plan.judges:
            return self.undecided.take(self, step)
        outcome, (watched,) = take([step])
        return step.report(outcome, watched)

    def adopt(self, grads: Any, reduce: Reduce | None, accumulated: bool) -> list[Any]:
        """Takes in gradients, the user's or accumulated ones, after every check; returns those of torch's that are to
        be zeroed."""
        self.check_mode()
        at_hand = grads is None and reduce is None and not accumulated and self.bound.tree is None
        if at_hand and self.plan.own_gradients and self.settings.missing == "raise" and not self.settings.zero_grads:
            kept = self.engine.hold(self.plan.arrays)
            if kept is not None:
                self._held = [kept]
                return []
        zeroed = self.settings.zero_grads and not accumulated
        before = dict(vars(self)) if self.settings.missing == "skip" else {}
        try:
            flat = grads if accumulated else self._collect(grads, reduce)
            self._held = gradients.adopt(self.plan, flat, reduce, zeroed, self._checked)
        except BaseException:
            vars(self).update(before)  # what was missing in a step that failed is of no account
            raise
        return [g for g in flat if accept.framework_of(g) == "torch"] if zeroed else []

    # -- what surrounds steps -----------------------------------------------------------------------------------------

    @property
    def step_count(self) -> int:
        """Steps taken."""
        if self.undecided.steps:
            self.undecided.settle(self)
        return int(self.clock[STEPS])

    def bind(self, grads: Any) -> None:
        """See `Optimizer.bind`."""
        with self.exclusive():
            if self.settings.missing == "skip":
                self.micro_batches.check_none("grads")
            dates.thaw(self)
            self.bound.take(grads, self._collect(grads), self.plan, self._checked)
            vars(self).update(NO_CALLS)

    def accumulate(self, grads: Any, reduce: Reduce | None, weight: float) -> None:
        """See `Optimizer.accumulate`."""
        with self.exclusive():
            try:
                add([self], [grads], reduce, weight)
            finally:
                self.let_go()

    def micro_batch(self, grads: Any, reduce: Reduce | None, weight: Any) -> tuple[list[Any], float]:
        """Takes in a micro-batch after every check; returns the gradients of torch's that are to be zeroed, and the
        weight as a number."""
        self.derive()  # a tensor that thaws now takes part from the first micro-batch on
        number = self.micro_batches.check(weight, self.plan.dtype)
        written = self.adopt(grads, reduce, False)
        self.plan.check_whole()
        return written, number

    def adding(self, written: list[Any], weight: float) -> Assignment:
        """The call that adds the micro-batch that was taken in."""
        fresh = [item for item in self.plan.items if ACCUMULATOR not in item.slots]
        slots.allocate(fresh, [slots.ACCUMULATORS])
        self.plan.point_to_accumulators()
        vars(self).update(NO_CALLS)
        self.micro_batches.expect(weight)
        if weight != 1:
            self.plan.tensors["scale"] *= weight
        autograd.about_to_write(written)
        return (self.engine.accumulate,)

    def measure(self) -> Records:
        """The sums of the gradients that torch's parameters hold, by which a step is decided; nothing moves."""
        with self.exclusive():
            try:
                self.adopt(None, None, False)
                return self.plan.measure().copy()
            finally:
                self.let_go()

    def start_at(self, step: int) -> None:
        """See `Optimizer.start_at`."""
        with self.exclusive():
            at_once(dates.starting_at(self, step))

    def retime(self, counts: NDArray[np.int64]) -> bool:
        """Makes these the steps that each tensor has taken; False if the plan's groups do not allow it."""
        with self.exclusive():
            rows = self.plan.tensors["group"]
            times = self.plan.groups["t"].copy()
            times[rows] = counts
            if (times[rows] != counts).any():
                return False
            at_once([(setitem, self.clock, STEPS, int(counts.max())), (setitem, self.plan.groups, "t", times)])
            return True

    def discard(self) -> None:
        """See `Optimizer.discard`."""
        with self.exclusive():
            self.clock[MICRO_BATCHES] = 0

    def _checked(self) -> Plan:
        """The plan, after every look at what it writes."""
        self.check(self.plan.items)
        return self.plan

    def check(self, items: list[Item]) -> None:
        """Raises if an array of the user's is not what it was, or not where it was. Torch parameters that were given
        other memory are followed; after an error none has been."""
        check_tree(self.containers, self.items)
        for item in items:
            item.check()
        if not any(item.is_torch and item.moved() for item in items):
            return
        self.undecided.settle(self)
        self.plan.keep_times()  # before items are copied, which have the counts
        moved = rebound(self.items)
        followed = [moved.get(item.path, item).but(slots=dict(item.slots)) for item in self.items]
        laid = self._follow(followed) if self.walks_memory else []
        at_once([*laid, (vars(self).update, self._planned(followed))])
        self.derive()


def add(steppers: list[Stepper], grads: list[Any], reduce: Reduce | None, weight: Any) -> None:
    """Adds one micro-batch to all of them; if one refuses it, no tensor of any has joined those that move."""
    before = [dict(vars(stepper)) if stepper.settings.missing == "skip" else {} for stepper in steppers]
    try:
        pairs = zip(steppers, grads, strict=True)
        batches = [stepper.micro_batch(own, reduce, weight) for stepper, own in pairs]
    except BaseException:
        for stepper, old in zip(steppers, before, strict=True):
            vars(stepper).update(old)
        raise
    in_turn([stepper.adding(*batch) for stepper, batch in zip(steppers, batches, strict=True)])
