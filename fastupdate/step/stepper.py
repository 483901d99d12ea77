"""The stepper: plan (what), hyperparameters (how) and engine (who) of one optimizer, and the life of a step."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from operator import setitem
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastupdate.arrays import accept, autograd, overlap
from fastupdate.arrays.containers import Containers
from fastupdate.arrays.memory import Array, Assignment
from fastupdate.arrays.place import Place
from fastupdate.engines import forks, records
from fastupdate.engines.choose import choose
from fastupdate.engines.protocol import Engine
from fastupdate.engines.records import MICRO_BATCHES, STEPS, Given
from fastupdate.groups import sort_into_groups
from fastupdate.rules.rule import Rule
from fastupdate.step import gradients, held, slots
from fastupdate.step.decide import Skips, condition, raise_nonfinite
from fastupdate.step.gradients import Reduce
from fastupdate.step.hypers import SHARED, Hypers
from fastupdate.step.options import Settings
from fastupdate.step.plan import Plan
from fastupdate.step.report import Report, Statistics
from fastupdate.step.tensors import ACCUMULATOR, Item, check_tree, given_states, make_items, rebound, sources
from fastupdate.step.transaction import at_once


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
    undecided      reports of steps of which only the device knows whether they were skipped
    """

    plan: Plan  # these four are replaced together, and items with them
    engine: Engine
    _taken: Given  # what the engine reads
    _quick: Callable[[], tuple[int, float] | None] | None  # a step on bound gradients, all in one call

    def __init__(
        self, rule: Rule, params: Any, hypers: Mapping[str, Any], flags: Mapping[str, bool], options: Mapping[str, Any]
    ) -> None:
        self.rule = rule
        self.settings = Settings(rule.name, **options)
        self.clock = np.zeros(3, np.int64)
        self.tree = params
        self.items = make_items(rule.name, params)
        self.containers = Containers(params)
        self.backend = choose(rule, self.settings.backend, self.items[0].array)
        self.lock = threading.Lock()  # of calls
        self.caller, self.lent = 0, False  # who took it last; whether ema_weights has it
        forks.heed(self)
        self._sign = -1.0 if self.settings.maximize else 1.0
        self.undecided: list[Any] = []
        self._skips = Skips(rule.name, self.settings.max_skips)
        self.micro_batches = gradients.MicroBatches(rule.name, self.clock)
        self.bound = gradients.Bound()
        self._held: list[Array] = []  # gradients that the engine may be reading
        self.hypers = Hypers(rule, self._specs(hypers), self.clock)
        self.flags = self._choose_flags(flags)
        self._sort_items()
        self._allocate()
        vars(self).update(self._planned(self.items))
        self.derive()

    def place(self, argument: str) -> Place:
        """Names an argument in messages."""
        return Place(self.rule.name, argument)

    # -- construction -------------------------------------------------------------------------------------------------

    def _specs(self, hypers: Mapping[str, Any]) -> Iterable[tuple[list[str], Mapping[str, Any]]]:
        s = self.settings
        shared: dict[str, Any] = {name: value for name, (value, _) in SHARED.items()} | {"l1": s.l1}
        for name in ("clip_value", "ema_decay"):
            if getattr(s, name) is not None:
                shared[name] = getattr(s, name)
        for names, overrides in sort_into_groups(self.rule.name, sources(self.items), s.groups):
            if s.ema_decay is None and overrides.get("ema_decay"):
                self.place("groups").fail(ValueError, "the option ema_decay, for a group sets it", "none")
            yield names, {**hypers, **shared, **overrides}

    def _choose_flags(self, given: Mapping[str, bool]) -> dict[str, bool]:
        """The flags given, and those that a hyperparameter switches on in some group."""
        flags = {name: bool(given.get(name, False)) for name in self.rule.flags}
        return flags | {flag: flags[flag] or self.hypers.used(hyper) for flag, hyper in self.rule.flag_hypers.items()}

    def _sort_items(self) -> None:
        by_name = {item.name: item for item in self.items}
        for row, group in enumerate(self.hypers.groups):
            for name in group["params"]:
                by_name[name].row = row
                by_name[name].frozen_until = group["frozen_until"]
                by_name[name].frozen = group["frozen_until"] > 0

    def _allocate(self) -> None:
        kept, state = self.rule.kept(self.flags), self.settings.state
        given = None if state is None else given_states(self.rule.name, kept, state)
        if given is None:
            self._lie_down(self.items)
            slots.allocate(self.items, slots.states(kept))
        else:
            slots.take_states(self.items, kept, given)
        slots.allocate(self.items, slots.copies(self.settings))
        if given is not None:
            owned = [pair for item in self.items for pair in item.arrays()]
            overlap.check_overlaps([array for array, _ in owned], [self.place(argument) for _, argument in owned])

    def _lie_down(self, items: list[Item]) -> None:
        if self.backend.WALKS_MEMORY:
            slots.lie_down(items)

    def _planned(self, items: list[Item]) -> dict[str, Any]:
        """The attributes that belong to a plan for these items, made beside those that there are."""
        plan = Plan(self.rule, self.flags, self.settings, items, self.clock, self.backend, self.containers)
        plan.engine.take(self.hypers.given)
        return {"items": items, "plan": plan, "engine": plan.engine, "_taken": self.hypers.given, "_quick": None}

    def replanning(self, items: list[Item], step: int) -> list[Assignment]:
        """Makes a plan for these items, which are new ones, after `step` steps; the assignments put it in place."""
        for item in items:
            item.frozen = step < item.frozen_until
        return [(vars(self).update, self._planned(items)), (setattr, self.bound, "flat", None)]

    def replan(self) -> None:
        """Plans anew for the tensors that move in the next step."""
        self.plan.keep_times()
        at_once(self.replanning([copy.copy(item) for item in self.items], self.step_count))

    # -- hyperparameters ----------------------------------------------------------------------------------------------

    def derive(self) -> None:
        """Takes in the hyperparameters of the next step; raises before anything is touched."""
        now = self.settings.at(int(self.clock[STEPS])) if self.settings.scheduled else self.settings
        while not self.engine.derive():
            step = int(self.clock[STEPS])
            if any(item.frozen and step >= item.frozen_until for item in self.items):
                self.replan()
            given = self.hypers.prepare(step, len(self.undecided))
            if self._taken is not given:
                self.engine.take(given)
                self._taken = given
            if self.engine.derive():
                break
            self.hypers.check_flags(self.flags)
            for group in self.hypers.groups:
                held.check_hypers(self.rule.name, group.numbers, self.plan.dtype)
        self.plan.settings = now

    # -- the step -----------------------------------------------------------------------------------------------------

    def exclusive(self, undecided: int = 0) -> threading.Lock:
        """The lock to hold during a call; to be taken by `with`, lest Ctrl-C come between taking and freeing.

        undecided: of how many steps it may stay open whether the device has skipped them
        """
        if self.lock.locked():
            forks.let_pass()
        if self.lock.locked():
            raise BusyError(f"[{self.rule.name}] busy: another call, or ema_weights(), is running on this optimizer")
        if self.undecided:
            self.settle(undecided)
        self.hypers.forget()
        self.caller = threading.get_ident()
        return self.lock

    def step(self, grads: Any, loss_scale: float, reduce: Reduce | None) -> Report:
        """One step; the arguments are those of `Optimizer.step`."""
        plain = grads is None and loss_scale == 1.0 and reduce is None
        if plain and self._quick is not None and not self.lock.locked():
            taken = self._quick()  # nothing can come between, so there is nothing to lock
            if taken:
                return Report(*taken)
        with self.exclusive(records.MOST_UNDECIDED):
            self.derive()
            if plain and self.plan.simple and not self.clock[MICRO_BATCHES] and self.bound.at_hand(self.plan):
                quick = partial(self.engine.step, self.plan.arrays, self.bound.flat, self._sign)
                taken = quick()
                if taken:
                    self._quick = quick if self.plan.indivisible else None
                    return Report(*taken)
            try:
                return self._whole_step(grads, loss_scale, reduce)
            finally:
                self._let_go()

    def _let_go(self) -> None:
        """Gradients are the user's to free; those that a device may still be reading are held until the next call."""
        if not self.plan.queued:
            self._held = []

    def _collect(self, grads: Any) -> list[Any]:
        if grads is not None:
            return gradients.collect(grads, self.containers, self.items, self.plan.items, self.rule.name)
        bound = self.bound.current(self._collect, self.plan, self._checked)
        return gradients.held_by(self.plan) if bound is None else bound

    def _whole_step(self, grads: Any, loss_scale: float, reduce: Reduce | None) -> Report:
        scale = self.micro_batches.scale(loss_scale, self.plan.dtype)
        accumulated = bool(self.clock[MICRO_BATCHES])
        if accumulated and grads is not None:
            self.place("grads").fail(ValueError, "None, for micro-batches were accumulated", "gradients")
        off = records.ZERO_GRADS if accumulated else 0
        reduce = None if accumulated else reduce
        written = self._adopt(
            [item.slots[ACCUMULATOR] for item in self.plan.items] if accumulated else grads, reduce, accumulated
        )
        unclipped = scale * self.plan.tensors["scale"] if reduce else scale  # a new array: clipping changes it
        if self.plan.judges:
            return self._judged_step(scale, off, unclipped, written)
        lr = self.engine.lr
        try:
            outcome = condition(self.plan, scale)
        except FloatingPointError:
            self._drop_gradients(written, off)
            raise
        if outcome.skip:
            self._drop_gradients(written, off)
            self._skips.note(True)
            if self._skips.too_many:
                raise_nonfinite(self.plan, self._skips.words)
            return Report(self.step_count, lr, outcome.grad_norm, 1.0, outcome.nonfinite, skipped=True)
        autograd.about_to_write([*self.plan.written, *written])
        self.engine.update(scale * outcome.factor * self._sign, off)
        self._skips.note(False)
        figures = outcome.grad_norm, outcome.factor, outcome.nonfinite
        return Report(self.step_count, lr, *figures, statistics=self._monitored(unclipped))

    def _adopt(self, grads: Any, reduce: Reduce | None, accumulated: bool) -> list[Any]:
        """Takes in gradients, the user's or accumulated ones, after every check; returns those of torch's that are to
        be zeroed."""
        flat = grads if accumulated else self._collect(grads)
        zeroed = self.settings.zero_grads and not accumulated
        self._held = gradients.adopt(self.plan, flat, reduce, zeroed, self._checked)
        return [g for g in flat if accept.framework_of(g) == "torch"] if zeroed else []

    def _drop_gradients(self, written: list[Any], off: int) -> None:
        """NaN in accumulated or accumulating gradients would come back in every later step."""
        self.clock[MICRO_BATCHES] = 0
        if self.settings.zero_grads and not off:
            autograd.about_to_write(written)
            self.engine.clear_gradients()

    def _judged_step(
        self, scale: float, off: int, unclipped: NDArray[np.float64] | float, written: list[Any]
    ) -> Report:
        """A step on a device, which looks at the gradients itself: the report waits for it, this call does not."""
        self._skips.check()
        engine: Any = self.engine
        if self.settings.nonfinite == "raise":
            engine.gradient_sums()
            engine.fold(self.plan.totals)
            try:
                raise_nonfinite(self.plan)
            except FloatingPointError:
                self._drop_gradients(written, off)
                raise
        lrs = engine.derive_possible(len(self.undecided))
        autograd.about_to_write([*self.plan.written, *written])
        outcome = engine.judged_update(scale, self._sign, off, self.plan.settings)
        report: Any = self._device_report(outcome, lrs, unclipped)
        if self.settings.nonfinite == "skip" and report.fetched:
            self.undecided.append(report)
        return report  # type: ignore[no-any-return]

    def _device_report(self, outcome: Any, lrs: list[float], unclipped: NDArray[np.float64] | float) -> Report:
        from fastupdate.engines import cuda

        watched = cuda.Watched(self.plan.names, self.plan.sizes, unclipped, self._sign * self.rule.momentum_sign)
        steps = int(self.clock[STEPS])
        return cuda.DeviceReport(steps, lrs, self.undecided[:], outcome, self.engine, self.settings, watched)

    def settle(self, undecided: int = 0) -> None:
        """Takes back the counts of steps that the device has skipped; waits for all but the last `undecided` ones."""
        if self.settings.scheduled or any(0 < item.frozen_until < math.inf and item.frozen for item in self.items):
            undecided = 0  # which tensors move, or what they are clipped to, depends on the step
        while self.undecided and (len(self.undecided) > undecided or self.undecided[0].ready):
            skipped = self.undecided.pop(0).settle()
            self._skips.note(skipped)
            if skipped:
                self.clock[STEPS] -= 1
                self.plan.groups["t"] -= 1

    def before_replay(self, loss_scale: float) -> Report:
        """Makes a captured step the next one; see `Optimizer.before_replay`."""
        with self.exclusive(records.MOST_UNDECIDED):
            engine: Any = self.engine
            if not hasattr(engine, "prepare_replay"):
                self.place("before_replay").fail(TypeError, "a step on the backend 'cuda'", repr(self.backend.NAME))
            self._skips.check()
            self.derive()
            scale = self.micro_batches.scale(loss_scale, self.plan.dtype)
            lrs = engine.derive_possible(len(self.undecided))
            autograd.about_to_write(self.plan.written)
            outcome = engine.prepare_replay(scale, self._sign, self.plan.settings)
            report = self._device_report(outcome, lrs, scale * self.plan.tensors["scale"])
            if self.settings.nonfinite == "skip":
                self.undecided.append(report)
            return report

    def _monitored(self, scales: NDArray[np.float64] | float) -> Statistics | None:
        """What was watched in this step; `scales` turn raw gradients into true ones, one or tensor by tensor."""
        if not self.settings.monitor:
            return None
        plan, sign = self.plan, self._sign * self.rule.momentum_sign
        return plan.recent_sums.statistics(plan.engine, plan.names, plan.sizes, scales, sign)

    # -- what surrounds steps -----------------------------------------------------------------------------------------

    @property
    def step_count(self) -> int:
        """Steps taken."""
        if self.undecided:
            self.settle()
        return int(self.clock[STEPS])

    def bind(self, grads: Any) -> None:
        """See `Optimizer.bind`."""
        with self.exclusive():
            self.bound.take(grads, self._collect(grads), self.plan, self._checked)
            self._quick = None

    def accumulate(self, grads: Any, reduce: Reduce | None, weight: float) -> None:
        """See `Optimizer.accumulate`."""
        weight = self.micro_batches.check(weight, self.plan.dtype)
        with self.exclusive():
            self.derive()  # a tensor that thaws now takes part from the first micro-batch on
            try:
                written = self._adopt(grads, reduce, False)
                fresh = [item for item in self.plan.items if ACCUMULATOR not in item.slots]
                slots.allocate(fresh, [slots.ACCUMULATORS])
                self.plan.point_to_accumulators()
                self._quick = None
                self.micro_batches.expect(weight)
                if weight != 1:
                    self.plan.tensors["scale"] *= weight
                autograd.about_to_write(written)
                self.engine.accumulate()
            finally:
                self._let_go()

    def start_at(self, step: int) -> None:
        """See `Optimizer.start_at`."""
        with self.exclusive():
            self.micro_batches.check_none("step")
            at_once([(setitem, self.clock, STEPS, step - 1), (setitem, self.plan.groups, "t", step - 1)])

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
        if not any(item.param.is_torch and item.param.moved() for item in items):
            return
        params = {item.path: param for item, param in rebound(self.items)}
        self.settle()
        self.plan.keep_times()
        followed = [
            replace(item, param=params.get(item.path, item.param), slots=dict(item.slots)) for item in self.items
        ]
        self._lie_down(followed)
        vars(self).update(self._planned(followed))
        self.derive()
