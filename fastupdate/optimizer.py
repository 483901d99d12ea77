"""The optimizer: parameters, states, groups and step counts around a plan that one call runs."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import numpy as np

from fastupdate import border, plan, structure
from fastupdate.assembly import Assembly
from fastupdate.backends import choose
from fastupdate.border import Place
from fastupdate.groups import SHARED, Group, Pattern, matcher, sort_into_groups
from fastupdate.items import Item, allocate, given_states, make_items
from fastupdate.norms import condition
from fastupdate.options import settings
from fastupdate.plan import Array
from fastupdate.report import Report, tensor_statistics
from fastupdate.rule import Rule

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
        self._backend = choose(self.rule, self._settings.backend)
        self._lock = threading.Lock()
        self._sign = -1.0 if self._settings.maximize else 1.0
        self._clock = np.zeros(2, np.int64)
        self._tree = params
        self._items = make_items(self.rule.name, params)
        self.groups: list[Group] = []
        self._stale = True  # a hyperparameter was set since the last step
        self._make_groups(hypers)
        self._flags = self._choose_flags(flags or {})
        self._bound: list[Any] | None = None
        self._pending = False  # there may be accumulated micro-batches
        self.report: Report | None = None
        self._allocate()
        self._assemble()

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
            self.groups.append(group)
            for name in names:
                by_name[name].group = group
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
        for item in self._items:
            allocate(item, kept, given, self._settings)

    def _assemble(self) -> None:
        s = self._settings
        self._assembly = Assembly(self.rule, self._flags, s, self._items, self._clock, self._backend)
        self._engine = self._assembly.engine
        self._arrays = self._assembly.arrays
        self._torch = [item for item in self._assembly.items if border.framework_of(item.source) == "torch"]
        self._whole = len(self._arrays) == len(self._items)
        special = s.needs_sums or s.monitor or s.clip_unit_norm is not None
        self._simple = not special and not self._torch
        self._evaluate()

    def _reassemble(self) -> None:
        self._assembly.keep_times()
        self._assemble()

    # -- hyperparameters ----------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Takes in the hyperparameters of the next step; raises before anything is touched."""
        step = self.step_count
        values = {id(group): group.at(step) for group in self.groups}
        for flag, hyper in self.rule.flag_hypers.items():
            if not self._flags[flag] and any(v[hyper] != 0 for v in values.values()):
                self._place(hyper).fail(ValueError, "0, as when the optimizer was made (it kept no state)", "another")
        self._scheduled = any(group.scheduled for group in self.groups) or self._settings.lookahead is not None
        self._lr = values[id(self.groups[0])]["lr"]
        self._stages = self._assembly.stages(values, step)
        self._assembly.fill_groups(values)
        self._stale = False

    # -- gradients ----------------------------------------------------------------------------------------------------

    def _gradients(self, grads: Any) -> list[Any]:
        """The gradients of the tensors that move, in their order."""
        if grads is None:
            return self._default_gradients()
        tree, items = self._tree, self._items
        if self._whole and type(grads) is type(tree) and structure.is_container(tree) and len(grads) == len(items):
            if isinstance(tree, list):
                return list(grads)
            if isinstance(tree, dict) and all(len(item.path) == 1 for item in items) and grads.keys() == tree.keys():
                return [grads[item.path[0]] for item in items]
        found = dict(structure.leaves(grads))
        known = {item.path for item in items}
        missing = next((item.path for item in self._assembly.items if item.path not in found), None)
        extra = next((path for path in found if path not in known), None)
        if missing is not None:
            self._place(structure.shown("grads", missing)).fail(ValueError, "an array", "none")
        if extra is not None:
            self._place(structure.shown("grads", extra)).fail(ValueError, "nothing (no such parameter)", "a gradient")
        return [found[item.path] for item in self._assembly.items]

    def _default_gradients(self) -> list[Any]:
        if self._bound is not None:
            return self._bound
        if len(self._torch) < len(self._arrays) or not self._torch:
            self._place("grads").fail(TypeError, "gradients, or bound ones (see bind)", "None")
        return [item.source.grad for item in self._torch]

    def _gradient_place(self, k: int) -> Place:
        return self._place(structure.shown("grads", self._assembly.items[k].path))

    def _adopt(self, grads: list[Any], reduce: Reduce | None) -> None:
        """Points the plan at these gradients after every check; raises for the first one that is wrong."""
        if reduce not in (None, "mean", "sum"):
            self._place("reduce").fail(ValueError, "'mean', 'sum' or None", repr(reduce))
        arrays = [
            g if type(g) is np.ndarray else border.as_array(g, self._gradient_place(k)) for k, g in enumerate(grads)
        ]
        self._adopted = arrays  # alive as long as the plan points to them
        self._assembly.tensors["scale"] = 1.0
        zeroed = self._settings.zero_grads
        k = 0 if reduce else self._engine.adopt(self._arrays, arrays, 0, zeroed)
        while 0 <= k < len(arrays):
            self._adopt_closely(k, arrays[k], reduce)
            k = k + 1 if reduce else self._engine.adopt(self._arrays, arrays, k + 1, zeroed)
        if zeroed and self._assembly.gradients_may_overlap():
            border.check_overlaps(arrays, [self._gradient_place(k) for k in range(len(arrays))])

    def _adopt_closely(self, k: int, array: Array, reduce: Reduce | None) -> None:
        item, row, place = self._assembly.items[k], self._assembly.tensors[k], self._gradient_place(k)
        if item.array.size != row["n"] or plan.address(item.array) != row["p"]:
            item.place.fail(ValueError, "the array that the optimizer was made for", "a resized one")
        if not item.array.flags.writeable:
            item.place.fail(ValueError, "a writable array", "a read-only one")
        border.like(array, item.array, place, samples=reduce is not None)
        if self._settings.zero_grads and not array.flags.writeable:
            place.fail(ValueError, "a writable array, to be zeroed", "a read-only one")
        self._check_apart(array, place)
        self._assembly.point_to_gradient(k, array, samples=reduce is not None)
        if reduce == "mean":
            row["scale"] = 1.0 / len(array)

    def _check_apart(self, grad: Array, place: Place) -> None:
        if grad.size:
            begin, end = border.bounds(grad)
            for item in self._assembly.items:
                low, high = border.bounds(item.array)
                if low < end and begin < high:
                    border.check_separate(grad, item.array, place, item.place)

    def _follow_torch(self) -> None:
        """A torch parameter may have been given other memory (`p.data = …`) since the last step."""
        moved = [item for item in self._torch if item.source.data_ptr() != plan.address(item.array)]
        for item in moved:
            item.array = border.like(border.parameter(item.source, item.place), item.array, item.place)
        if moved:
            self._reassemble()

    # -- the step -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            self._lock.release()

    def _enter(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise BusyError(f"[{self.rule.name}] busy: another call on this optimizer is running")

    def step(self, grads: Any = None, *, loss_scale: float = 1.0, reduce: Reduce | None = None) -> Report:
        """Updates every parameter once; raises before anything has changed, or does the whole step.

        grads       same structure, shapes and dtypes as the parameters; None: the accumulated or bound ones, or p.grad
        loss_scale  what the loss was multiplied by: gradients are divided by it
        reduce      "mean" or "sum" over one more leading axis of per-sample gradients
        """
        self._enter()
        try:
            if self._stale or self._scheduled:
                self._evaluate()
            if self._simple and grads is None and loss_scale == 1.0 and self._bound is not None and not self._pending:
                taken = self._engine.step(self._arrays, self._bound, self._sign, self._stages)
                if taken:
                    self.report = Report(taken, self._lr)
                    return self.report
            self.report = self._whole_step(grads, loss_scale, reduce)
            return self.report
        finally:
            self._lock.release()

    def _whole_step(self, grads: Any, loss_scale: float, reduce: Reduce | None) -> Report:
        self._follow_torch()
        scale = self._scale(loss_scale)
        if self._pending and self._clock[MICRO_BATCHES]:
            if grads is not None:
                self._place("grads").fail(ValueError, "None, for micro-batches were accumulated", "gradients")
            self._assembly.gradients_are_accumulators()
            stages = self._stages & ~plan.ZERO_GRADS
        else:
            self._adopt(self._gradients(grads), reduce)
            stages = self._stages
        outcome = condition(self._assembly, scale)
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
            tensors=self._monitored(scale),
        )

    def _scale(self, loss_scale: float) -> float:
        """What turns raw gradients into the mean gradient of the loss."""
        if (
            isinstance(loss_scale, bool)
            or not isinstance(loss_scale, (int, float, np.number))
            or not 0 < loss_scale < math.inf
        ):
            self._place("loss_scale").fail(ValueError, "a finite number > 0", repr(loss_scale))
        return 1.0 / (float(loss_scale) * max(int(self._clock[MICRO_BATCHES]), 1))

    def _monitored(self, scale: float) -> Any:
        if not self._settings.monitor:
            return None
        a = self._assembly
        self._engine.fold(a.totals)
        names = [item.name for item in a.items]
        return tensor_statistics(names, a.tensors, a.totals, scale * self._sign)

    def start_at(self, step: int) -> None:
        """Makes the next step number `step` (1 for a fresh optimizer): for states that were trained elsewhere."""
        if isinstance(step, bool) or not isinstance(step, (int, np.integer)) or not 1 <= step < 2**62:
            self._place("step").fail(ValueError, "an integer ≥ 1", repr(step))
        with self._exclusive():
            self._clock[STEPS] = step - 1
            self._assembly.groups["t"] = step - 1
            self._stale = True

    def bind(self, grads: Any) -> None:
        """Names the gradient buffers that every later `step()` reads: same structure, shapes and dtypes as params."""
        with self._exclusive():
            flat = self._gradients(grads)
            self._adopt(flat, None)
            shared_memory = all(border.framework_of(g) != "torch" for g in flat)
            self._bound = self._adopted if shared_memory else flat

    def accumulate(self, grads: Any = None, *, reduce: Reduce | None = None) -> None:
        """Adds one micro-batch; the next `step()` moves by the mean over all of them. Arguments as in `step`."""
        with self._exclusive():
            self._follow_torch()
            self._adopt(self._gradients(grads), reduce)
            for item in self._assembly.items:
                if item.acc is None:
                    item.acc = np.zeros(item.array.shape, item.array.dtype)
            self._assembly.point_to_accumulators()
            self._pending = True
            self._engine.accumulate(self._stages & plan.ZERO_GRADS)

    # -- what is kept -------------------------------------------------------------------------------------------------

    @property
    def step_count(self) -> int:
        """Steps taken."""
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
        return structure.rebuild(self._tree, lambda path: pick(by_path[path]))

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Within the context the parameters hold their moving average; afterwards they are as before, bit for bit."""
        if self._settings.ema_decay is None:
            self._place("ema_decay").fail(ValueError, "a decay, set when the optimizer was made", "None")
        with self._exclusive():
            kept = [item.array.copy() for item in self._items]
            try:
                for item in self._items:
                    item.array[...] = item.ema
                yield
            finally:
                for item, array in zip(self._items, kept, strict=True):
                    item.array[...] = array

    # -- transfer learning --------------------------------------------------------------------------------------------

    def freeze(self, pattern: Pattern) -> list[str]:
        """Stops updating the tensors whose dotted names match; returns the names. Their states are held."""
        return self._set_frozen(pattern, True)

    def unfreeze(self, pattern: Pattern, *, state: Literal["hold", "reset"] | float = "hold") -> list[str]:
        """Updates matching tensors again; returns the names.

        state: "hold" goes on from the states and step counts as they were; "reset" starts from zero; a number in
        [0, 1] multiplies the states by it.
        """
        if state not in ("hold", "reset") and not (isinstance(state, (int, float)) and 0 <= state <= 1):
            self._place("state").fail(ValueError, "'hold', 'reset' or a number in [0, 1]", repr(state))
        return self._set_frozen(pattern, False, state)

    def _set_frozen(self, pattern: Pattern, frozen: bool, state: str | float = "hold") -> list[str]:
        with self._exclusive():
            if self._clock[MICRO_BATCHES]:
                self._place("pattern").fail(ValueError, "no accumulated micro-batches (step first)", "some")
            matches = matcher(pattern)
            found = [item for item in self._items if matches(item.name)]
            if not found:
                self._place("pattern").fail(ValueError, "a pattern that matches a parameter", repr(pattern))
            self._assembly.keep_times()
            for item in found:
                if item.frozen and not frozen:
                    _thaw(item, state)
                item.frozen = frozen
            self._assemble()
            self._bound = None
            return [item.name for item in found]


def _thaw(item: Item, state: str | float) -> None:
    if state == "hold":
        return
    for array in item.states.values():
        array *= 0 if state == "reset" else state
    if state == "reset":
        item.t = 0
