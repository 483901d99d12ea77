"""The optimizer: parameters, states, groups and step counts around a plan that one call runs."""

from __future__ import annotations

import copy
import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from os import PathLike
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fastupdate.arrays import accept, device, memory, overlap, tree
from fastupdate.arrays.memory import Array
from fastupdate.arrays.place import Place
from fastupdate.engines import records
from fastupdate.engines.choose import choose
from fastupdate.groups import SHARED, Group, Pattern, matcher, sort_into_groups
from fastupdate.rules.rule import Rule, is_number
from fastupdate.saving import checkpoint
from fastupdate.step.decide import condition, raise_nonfinite
from fastupdate.step.options import settings
from fastupdate.step.plan import Assembly
from fastupdate.step.report import Report, Statistics
from fastupdate.step.tensors import Item, allocate, allocate_accumulators, given_states, make_items

Reduce = Literal["mean", "sum"]
STEPS, MICRO_BATCHES = 0, 1  # the entries of the clock


class BusyError(RuntimeError):
    """Another call on the same optimizer is running."""


class Optimizer:
    """Updates parameters in place. Each subclass is a rule; its docstring has the formula.

    params: an array, a sequence, a mapping or a nesting of them; float32 or float64, of any shape and strides.
    """

    rule: ClassVar[Rule]

    def __init__(
        self, params: Any, hypers: Mapping[str, Any], flags: Mapping[str, bool] | None = None, **options: Any
    ) -> None:
        self._settings = settings(self.rule.name, options)
        self._lock = threading.Lock()
        self._sign = -1.0 if self._settings.maximize else 1.0
        self._clock = np.zeros(2, np.int64)
        self._tree = params
        self._items = make_items(self.rule.name, params)
        self._backend = choose(self.rule, self._settings.backend, self._items[0].array)
        self._undecided: list[Any] = []  # reports of steps of which only the device knows whether they were skipped
        self.groups: list[Group] = []
        self._stale = True  # a hyperparameter was set since the last step
        self._changes = False  # some of what hyperparameters decide changes from step to step
        self._make_groups(hypers)
        self._flags = self._choose_flags(flags or {})
        self._prepared: Callable[[], int] | None = None  # takes a step like the last one, if no thread can come between
        self._bound: list[Any] | None = None  # gradients of the tensors that move, from
        self._bound_tree: Any = None  # what the user bound
        self._held: list[Array] = []  # gradients that the engine may be reading
        self._pending = False  # there may be accumulated micro-batches
        self.report: Report | None = None
        self._allocate()
        self._assemble()
        self._evaluate()

    # -- construction -------------------------------------------------------------------------------------------------

    def _place(self, argument: str) -> Place:
        return Place(self.rule.name, argument)

    def _make_groups(self, hypers: Mapping[str, Any]) -> None:
        s = self._settings
        shared: dict[str, Any] = {name: value for name, (value, _) in SHARED.items()} | {"l1": s.l1}
        for name in ("clip_value", "ema_decay"):
            if getattr(s, name) is not None:
                shared[name] = getattr(s, name)
        by_name = {item.name: item for item in self._items}
        for names, overrides in sort_into_groups(self.rule.name, list(by_name), s.groups):
            group = Group(self.rule, names, {**hypers, **shared, **overrides}, self._changed)
            if s.ema_decay is None and group["ema_decay"]:
                self._place("groups").fail(ValueError, "the option ema_decay, for a group sets it", "none")
            self.groups.append(group)
            for name in names:
                by_name[name].group = group
                by_name[name].frozen_until = group["frozen_until"]
                by_name[name].frozen = group["frozen_until"] > 0

    def _changed(self) -> None:
        self._stale = True

    def _choose_flags(self, given: Mapping[str, bool]) -> dict[str, bool]:
        """The flags given, and those that a hyperparameter switches on in some group."""
        flags = {name: bool(given.get(name, False)) for name in self.rule.flags}
        for flag, hyper in self.rule.flag_hypers.items():
            flags[flag] = any(callable(group[hyper]) or group[hyper] != 0 for group in self.groups)
        return flags

    def _allocate(self) -> None:
        kept, state = self.rule.kept(self._flags), self._settings.state
        given = None if state is None else given_states(self.rule.name, kept, state)
        allocate(self._items, kept, given, self._settings)
        if given is not None:
            owned = [pair for item in self._items for pair in item.arrays()]
            overlap.check_overlaps([array for array, _ in owned], [self._place(argument) for _, argument in owned])

    def _assemble(self) -> None:
        s = self._settings
        self._assembly = Assembly(self.rule, self._flags, s, self._items, self._clock, self._backend)
        self._engine = self._assembly.engine
        self._arrays = self._assembly.arrays
        self._torch = _torch_items(self._assembly.items)
        self._whole = len(self._arrays) == len(self._items)
        self._next_thaw = min((item.frozen_until for item in self._items if item.frozen), default=math.inf)
        special = s.needs_sums or s.monitor or s.clip_unit_norm is not None
        self._judges = special and hasattr(self._engine, "judged_update")  # the device looks at the gradients
        self._simple = not special and not self._torch
        self._queued = any(isinstance(array, device.DeviceArray) for array in self._arrays[:1])  # read after the call
        self._indivisible = getattr(self._engine, "keeps_gil", False) and _gil_enabled()
        self._stale = True

    def _replan(self) -> None:
        """Plans anew for the tensors that move in the next step; what was bound is looked through again."""
        for item in self._items:
            item.frozen = self.step_count < item.frozen_until
        self._bound = None
        self._assemble()

    # -- hyperparameters ----------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Takes in the hyperparameters of the next step; raises before anything is touched."""
        step = int(self._clock[STEPS])
        if step >= self._next_thaw:
            self._assembly.keep_times()
            self._replan()
        elif not self._stale and not self._changes:
            return  # only waits for a thaw
        values = {id(group): group.at(step) for group in self.groups}
        for flag, hyper in self.rule.flag_hypers.items():
            if not self._flags[flag] and any(v[hyper] != 0 for v in values.values()):
                self._place(hyper).fail(ValueError, "0, as when the optimizer was made (it kept no state)", "another")
        self._changes = any(group.scheduled for group in self.groups) or self._settings.lookahead is not None
        self._scheduled = self._changes or self._next_thaw < math.inf
        self._lr = values[id(self.groups[0])]["lr"]
        self._stages = self._assembly.stages(values, step)
        self._prepared = None
        self._assembly.fill_groups(values)
        self._stale = False

    # -- gradients ----------------------------------------------------------------------------------------------------

    def _gradients(self, grads: Any) -> list[Any]:
        """The gradients of the tensors that move, in their order."""
        if grads is None:
            return self._default_gradients()
        own, items = self._tree, self._items
        if self._whole and type(grads) is type(own) and tree.is_container(own) and len(grads) == len(items):
            if isinstance(own, list):
                return list(grads)
            if isinstance(own, dict) and all(len(item.path) == 1 for item in items) and grads.keys() == own.keys():
                return [grads[item.path[0]] for item in items]
        found = dict(tree.leaves(grads))
        known = {item.path for item in items}
        missing = next((item.path for item in self._assembly.items if item.path not in found), None)
        extra = next((path for path in found if path not in known), None)
        if missing is not None:
            self._place(tree.shown("grads", missing)).fail(ValueError, "an array", "none")
        if extra is not None:
            self._place(tree.shown("grads", extra)).fail(ValueError, "nothing (no such parameter)", "a gradient")
        return [found[item.path] for item in self._assembly.items]

    def _default_gradients(self) -> list[Any]:
        if self._bound is None and self._bound_tree is not None:
            self._bind(self._bound_tree)
        if self._bound is not None:
            return self._bound
        if len(self._torch) < len(self._arrays):
            self._place("grads").fail(TypeError, "gradients, or bound ones (see bind)", "None")
        return [item.source.grad for item in self._torch]

    def _gradient_place(self, k: int) -> Place:
        return self._place(tree.shown("grads", self._assembly.items[k].path))

    def _adopt(self, grads: list[Any], reduce: Reduce | None) -> list[Array]:
        """Points the plan at these gradients after every check; raises for the first one that is wrong.

        The arrays returned are to be held until the engine has read them.
        """
        if reduce not in (None, "mean", "sum"):
            self._place("reduce").fail(ValueError, "'mean', 'sum' or None", repr(reduce))
        arrays = grads
        zeroed = self._settings.zero_grads
        k = 0 if reduce else self._engine.adopt(self._arrays, arrays, 0, zeroed)
        if k >= 0:
            arrays = [accept.as_array(g, self._gradient_place(k)) for k, g in enumerate(grads)]
            k = 0 if reduce else self._engine.adopt(self._arrays, arrays, 0, zeroed)
        while 0 <= k < len(arrays):
            self._adopt_closely(k, arrays[k], reduce)
            k = k + 1 if reduce else self._engine.adopt(self._arrays, arrays, k + 1, zeroed)
        if zeroed and self._assembly.zeroing_may_harm():
            held = self._assembly.held
            places = [self._gradient_place(k) for k in range(len(arrays))] + [self._place(name) for _, name in held]
            overlap.check_overlaps([*arrays, *(array for array, _ in held)], places)
        return arrays

    def _adopt_closely(self, k: int, array: Array, reduce: Reduce | None) -> None:
        item, row, place = self._assembly.items[k], self._assembly.tensors[k], self._gradient_place(k)
        if item.array.size != row["n"] or memory.address(item.array) != row["p"]:
            item.place.fail(ValueError, "the array that the optimizer was made for", "a resized one")
        if not item.array.flags.writeable:
            item.place.fail(ValueError, "a writable array", "a read-only one")
        accept.like(array, item.array, place, samples=reduce is not None)
        if self._settings.zero_grads and not array.flags.writeable:
            place.fail(ValueError, "a writable array, to be zeroed", "a read-only one")
        self._check_apart(array, place)
        self._assembly.point_to_gradient(k, array, samples=reduce is not None)
        row["scale"] = 1.0 / len(array) if reduce == "mean" else 1.0

    def _check_apart(self, grad: Array, place: Place) -> None:
        if grad.size:
            for array, argument in self._assembly.neighbours(*overlap.bounds(grad)):
                overlap.check_separate(grad, array, place, self._place(argument))

    def _follow_torch(self, items: Iterable[Item]) -> None:
        """A torch parameter may have been given other memory (`p.data = …`) since the last step."""
        moved = [item for item in _torch_items(items) if item.source.data_ptr() != memory.address(item.array)]
        for item in moved:
            item.array = accept.like(accept.parameter(item.source, item.place), item.array, item.place)
        if moved:
            self._settle()
            self._assembly.keep_times()
            self._assemble()
            self._evaluate()

    # -- the step -----------------------------------------------------------------------------------------------------

    def _exclusive(self, undecided: int = 0) -> threading.Lock:
        """The lock to hold during a call; to be taken by `with`, lest Ctrl-C come between taking and freeing.

        undecided: of how many steps it may stay open whether the device has skipped them
        """
        if self._lock.locked():
            raise BusyError(f"[{self.rule.name}] busy: another call, or ema_weights(), is running on this optimizer")
        if self._undecided:
            self._settle(undecided)
        return self._lock

    def step(self, grads: Any = None, *, loss_scale: float = 1.0, reduce: Reduce | None = None) -> Report:
        """Updates every parameter once; raises before anything has changed, or does the whole step.

        grads       same structure, shapes and dtypes as the parameters; None: the accumulated or bound ones, or p.grad
        loss_scale  what the loss was multiplied by: gradients are divided by it
        reduce      "mean" or "sum" over one more leading axis of per-sample gradients
        """
        plain = grads is None and loss_scale == 1.0 and reduce is None
        ready = plain and not (self._stale or self._scheduled or self._lock.locked())
        if ready and self._prepared is not None:  # from here on nothing can come between, so there is nothing to lock
            taken = self._prepared()
            if taken:
                self.report = report = Report(taken, self._lr)
                return report
        with self._exclusive(records.MOST_UNDECIDED):
            if self._stale or self._scheduled:
                self._evaluate()
            if plain and self._simple and self._bound is not None and not self._pending:
                take = partial(self._engine.step, self._arrays, self._bound, self._sign, self._stages)
                taken = take()
                if taken:
                    self._prepared = take if self._indivisible else None
                    self.report = Report(taken, self._lr)
                    return self.report
            try:
                self.report = self._whole_step(grads, loss_scale, reduce)
            finally:
                self._let_go()
            return self.report

    def _let_go(self) -> None:
        """Gradients are the user's to free; those that a device may still be reading are held until the next call."""
        if not self._queued:
            self._held = []

    def _whole_step(self, grads: Any, loss_scale: float, reduce: Reduce | None) -> Report:
        self._follow_torch(self._torch)
        scale = self._scale(loss_scale)
        if self._pending and self._clock[MICRO_BATCHES]:
            if grads is not None:
                self._place("grads").fail(ValueError, "None, for micro-batches were accumulated", "gradients")
            self._assembly.gradients_are_accumulators()
            stages = self._stages & ~records.ZERO_GRADS
        else:
            self._held = self._adopt(self._gradients(grads), reduce)
            stages = self._stages
        unclipped = scale * self._assembly.tensors["scale"] if reduce else scale  # a new array: clipping changes it
        if self._judges:
            return self._judged_step(scale, stages, unclipped)
        try:
            outcome = condition(self._assembly, scale)
        except FloatingPointError:
            self._clock[MICRO_BATCHES] = 0  # accumulated NaN would come back in every later step
            raise
        if outcome.skip:
            self._clock[MICRO_BATCHES] = 0
            return Report(self.step_count, self._lr, outcome.grad_norm, 1.0, outcome.nonfinite, skipped=True)
        self._engine.update(scale * outcome.factor * self._sign, stages)
        self._pending = False
        return Report(
            self.step_count,
            self._lr,
            outcome.grad_norm,
            outcome.factor,
            outcome.nonfinite,
            statistics=self._monitored(unclipped),
        )

    def _judged_step(self, scale: float, stages: int, unclipped: NDArray[np.float64] | float) -> Report:
        """A step on a device, which looks at the gradients itself: the report waits for it, this call does not."""
        if self._settings.nonfinite == "raise":
            self._engine.gradient_sums()
            self._engine.fold(self._assembly.totals)
            raise_nonfinite(self._assembly)
        engine: Any = self._engine
        steps = self._possible_steps(stages)
        outcome = engine.judged_update(scale, self._sign, steps, self._settings)
        self._pending = False
        report: Any = self._device_report(outcome, steps, unclipped)
        if self._settings.nonfinite == "skip" and report.fetched:
            self._undecided.append(report)
        return report  # type: ignore[no-any-return]

    def _possible_steps(self, stages: int) -> list[Any]:
        """What the next step is if none of the undecided steps was skipped, if one was, and so on."""
        from fastupdate.engines.cuda import PossibleStep

        a, dropped = self._assembly, self._stages & ~stages
        steps = [PossibleStep(self._lr, stages, a.groups.copy())]
        for skipped in range(1, len(self._undecided) + 1):
            groups = a.groups.copy()
            groups["t"] -= skipped
            if self._scheduled:
                step = int(self._clock[STEPS]) - skipped
                values = {id(group): group.at(step) for group in self.groups}
                a.fill_groups(values, groups)
                steps.append(PossibleStep(values[id(self.groups[0])]["lr"], a.stages(values, step) & ~dropped, groups))
            else:
                steps.append(PossibleStep(self._lr, stages, groups))
        return steps

    def _device_report(self, outcome: Any, steps: list[Any], unclipped: NDArray[np.float64] | float) -> Report:
        from fastupdate.engines import cuda

        a = self._assembly
        watched = cuda.Watched(a.names, a.tensors["n"], unclipped, self._sign * self.rule.momentum_sign)
        return cuda.DeviceReport(
            int(self._clock[STEPS]),
            [step.lr for step in steps],
            self._undecided[:],
            outcome,
            self._engine,
            self._settings,
            watched,
        )

    def _settle(self, undecided: int = 0) -> None:
        """Takes back the counts of steps that the device has skipped; waits for all but the last `undecided` ones."""
        if self._next_thaw < math.inf:  # which tensors move depends on the step
            undecided = 0
        while self._undecided and (len(self._undecided) > undecided or self._undecided[0].ready):
            if self._undecided.pop(0).settle():
                self._clock[STEPS] -= 1
                self._assembly.groups["t"] -= 1
                self._stale = True

    def before_replay(self, *, loss_scale: float = 1.0) -> Report:
        """Makes a step that was captured in a CUDA graph the next one; to be called before each launch of the graph.

        Uploads step count, learning rate and all other numbers of the step on the current stream, on which the graph
        is to be launched, and counts the step. The report can be looked at after the launch.
        """
        with self._exclusive(records.MOST_UNDECIDED):
            if not hasattr(self._engine, "prepare_replay"):
                self._place("before_replay").fail(TypeError, "a step on the backend 'cuda'", repr(self._backend.NAME))
            if self._stale or self._scheduled:
                self._evaluate()
            scale = self._scale(loss_scale)
            engine: Any = self._engine
            steps = self._possible_steps(self._stages)
            outcome = engine.prepare_replay(scale, self._sign, steps, self._settings)
            self.report = self._device_report(outcome, steps, scale * self._assembly.tensors["scale"])
            if self._settings.nonfinite == "skip":
                self._undecided.append(self.report)
            return self.report

    def _scale(self, loss_scale: float) -> float:
        """What turns raw gradients into the mean gradient of the loss."""
        if not (
            is_number(loss_scale) and 2.0**-1000 <= loss_scale <= 2.0**1000
        ):  # so that 1 / loss_scale is finite too
            self._place("loss_scale").fail(ValueError, "a finite number > 0", repr(loss_scale))
        return 1.0 / (float(loss_scale) * max(int(self._clock[MICRO_BATCHES]), 1))

    def _monitored(self, scales: NDArray[np.float64] | float) -> Statistics | None:
        """What was watched in this step; `scales` turn raw gradients into true ones, one or tensor by tensor."""
        if not self._settings.monitor:
            return None
        a = self._assembly
        sign = self._sign * self.rule.momentum_sign
        return a.recent_sums.statistics(a.engine, a.names, a.tensors["n"], scales, sign)

    def start_at(self, step: int) -> None:
        """Makes the next step number `step` (1 for a fresh optimizer): for states that were trained elsewhere."""
        if isinstance(step, bool) or not isinstance(step, (int, np.integer)) or not 1 <= step < 2**62:
            self._place("step").fail(ValueError, "an integer ≥ 1", repr(step))
        with self._exclusive():
            self._check_nothing_accumulated("step")
            self._clock[STEPS] = step - 1
            self._assembly.groups["t"] = step - 1
            self._stale = True

    def bind(self, grads: Any) -> None:
        """Names the gradient buffers that every later `step()` reads: same structure, shapes and dtypes as params."""
        with self._exclusive():
            self._bind(grads)

    def _bind(self, grads: Any) -> None:
        flat = self._gradients(grads)
        arrays = self._adopt(flat, None)
        shared_memory = all(accept.framework_of(g) != "torch" for g in flat)
        self._bound = arrays if shared_memory else flat
        self._bound_tree = grads
        self._prepared = None

    def accumulate(self, grads: Any = None, *, reduce: Reduce | None = None) -> None:
        """Adds one micro-batch; the next `step()` moves by the mean over all of them. Arguments as in `step`."""
        with self._exclusive():
            if self._stale or self._scheduled:
                self._evaluate()  # a tensor that thaws now takes part from the first micro-batch on
            self._follow_torch(self._torch)
            try:
                self._held = self._adopt(self._gradients(grads), reduce)
                allocate_accumulators([item for item in self._assembly.items if item.acc is None])
                self._assembly.point_to_accumulators()
                self._pending, self._prepared = True, None
                self._engine.accumulate(self._stages & records.ZERO_GRADS)
            finally:
                self._let_go()

    # -- what is kept -------------------------------------------------------------------------------------------------

    @property
    def step_count(self) -> int:
        """Steps taken."""
        if self._undecided:
            self._settle()
        return int(self._clock[STEPS])

    @property
    def state(self) -> dict[str, Any]:
        """The states by name, each a structure of arrays like the parameters. The arrays are the live ones."""
        return {name: self._structured(lambda item, n=name: item.states[n]) for name in self.rule.kept(self._flags)}

    @property
    def ema(self) -> Any:
        """The moving average of the parameters (`ema_decay`), structured like them; None if it is off."""
        return None if self._settings.ema_decay is None else self._structured(lambda item: item.ema)

    @property
    def shadow(self) -> Any:
        """The low-precision copies (`shadow`), structured like the parameters; bfloat16 as uint16 bits. None if off."""
        return None if self._settings.shadow is None else self._structured(lambda item: item.shadow)

    def _structured(self, pick: Any) -> Any:
        by_path = {item.path: item for item in self._items}
        return tree.rebuild(self._tree, lambda path: device.owner_of(pick(by_path[path])))

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Within the context the parameters hold their moving average; afterwards they are as before, bit for bit."""
        if self._settings.ema_decay is None:
            self._place("ema_decay").fail(ValueError, "a decay, set when the optimizer was made", "None")
        with self._exclusive():
            self._follow_torch(self._items)
            kept = [item.array.copy() for item in self._items]
            try:
                for item in self._items:
                    item.array[...] = item.ema
                yield
            finally:
                to_the_end(lambda: _copy_all([item.array for item in self._items], kept))

    # -- transfer learning --------------------------------------------------------------------------------------------

    def freeze(self, pattern: Pattern) -> list[str]:
        """Stops updating the tensors whose dotted names match; returns the names. Their states are held.

        A frozen tensor costs nothing, and its gradient may be None or absent.
        """
        return self._set_frozen(pattern, math.inf, "hold")

    def unfreeze(self, pattern: Pattern, *, state: Literal["hold", "reset"] | float = "hold") -> list[str]:
        """Updates matching tensors again; returns the names. Those that were not frozen go on as they are.

        state: "hold" goes on from the states and step counts as they were; "reset" starts from zero; a number in
        [0, 1] multiplies the states by it.
        """
        right = state in ("hold", "reset") if isinstance(state, str) else is_number(state) and 0 <= state <= 1
        if not right:
            self._place("state").fail(ValueError, "'hold', 'reset' or a number in [0, 1]", repr(state))
        return self._set_frozen(pattern, 0.0, state)

    def _set_frozen(self, pattern: Pattern, until: float, state: str | float) -> list[str]:
        matches = matcher(pattern)
        with self._exclusive():
            self._check_nothing_accumulated("pattern")
            found = [item for item in self._items if matches(item.name)]
            if not found:
                self._place("pattern").fail(ValueError, "a pattern that matches a parameter", repr(pattern))
            self._assembly.keep_times()
            thawed = [item for item in found if item.frozen and state != "hold"]
            factor = 0.0 if state == "reset" else state
            new_states = [(old, _scaled(old, factor)) for item in thawed for old in item.states.values()]

            def act() -> None:
                for array, new in new_states:
                    array[...] = new
                for item in found:
                    item.frozen_until = until
                if state == "reset":
                    for item in thawed:
                        item.t = 0
                self._replan()

            to_the_end(act)
            return [item.name for item in found]

    def _check_nothing_accumulated(self, argument: str) -> None:
        if self._clock[MICRO_BATCHES]:
            self._place(argument).fail(ValueError, "no accumulated micro-batches (step first)", "some")

    # -- saving and resuming ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on beside the parameters, as copies: a plain dict of arrays and numbers.

        That is states, step counts, averages, slow weights, low-precision copies, accumulated micro-batches, frozen
        flags, hyperparameters and the state of schedules that have one (`plateau`).
        """
        with self._exclusive():
            self._follow_torch(self._items)
            return copy.deepcopy(checkpoint.snapshot(self, params=False))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` or `fu.load` gave; the latter restores the parameters too, in place.

        Everything is checked first: ValueError or TypeError names the first difference (another rule, flag, tensor,
        shape, dtype, group …), and nothing has changed. Schedules stay those of this optimizer; only their state, if
        they have one, is taken over.
        """
        with self._exclusive():
            self._follow_torch(self._items)
            to_the_end(checkpoint.restorer(self, state))

    def save(self, path: str | PathLike[str]) -> None:
        """Writes state and parameters to a safetensors file, for `fu.load`. Needs fastupdate[checkpoint].

        At any moment, even if the machine stops, `path` is the old file or the new one, whole.
        """
        with self._exclusive():
            self._follow_torch(self._items)
            checkpoint.write(path, checkpoint.snapshot(self, params=True))


def _gil_enabled() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def _torch_items(items: Iterable[Item]) -> list[Item]:
    return [item for item in items if accept.framework_of(item.source) == "torch"]


def _copy_all(targets: Iterable[Array], sources: Iterable[Array]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target[...] = source


def _scaled(array: Array, factor: Any) -> Any:
    return array * float(factor) if factor else 0.0


def to_the_end(act: Callable[[], None]) -> None:
    """Runs an action that may be repeated to its end: Ctrl-C takes effect before or after it."""
    try:
        act()
    except KeyboardInterrupt:
        act()
        raise
