"""The optimizer: what users hold. Everything that takes steps is in fastupdate.step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from os import PathLike
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np

from fastupdate import attributes
from fastupdate.arrays import autograd, device, tree
from fastupdate.arrays.foreign import shown
from fastupdate.arrays.numbers import FRACTION, integer, real
from fastupdate.arrays.patterns import Finder, Pattern
from fastupdate.arrays.place import Place
from fastupdate.groups import taken_apart
from fastupdate.rules.rule import Rule
from fastupdate.saving import file
from fastupdate.saving import state as saving
from fastupdate.saving.checks import Rename
from fastupdate.saving.loading import Loaded, loading
from fastupdate.step import dates, describe, slots
from fastupdate.step.gradients import Reduce
from fastupdate.step.hypers import Group
from fastupdate.step.lending import lending
from fastupdate.step.modes import turning
from fastupdate.step.options import check_names
from fastupdate.step.report import Report
from fastupdate.step.slots import following
from fastupdate.step.stepper import Stepper
from fastupdate.step.tensors import check_tree, sources
from fastupdate.step.transaction import at_once


class Optimizer(attributes.NotTorch):
    """Updates parameters in place. Each subclass is a rule; its docstring has the formula.

    params: an array, a sequence, a mapping or a nesting of them; float32 or float64, of any shape and strides. Also
    what torch takes: an iterator, (name, array) pairs, a list of groups {"params": arrays, "lr": …}; `opt.params` is
    then the list or the mapping that gradients are to be structured like.

    `stepper` is the machinery, for faces and checkpoints; its names may change.
    """

    rule: ClassVar[Rule]
    stepper: Stepper

    def __init__(
        self, params: Any, hypers: Mapping[str, Any], flags: Mapping[str, bool] | None = None, **options: Any
    ) -> None:
        check_names(type(self), options)
        params, own = taken_apart(self.rule.name, params)
        given = options.get("groups", ())
        if own and not isinstance(given, Mapping) and isinstance(given, Iterable):
            options["groups"] = [*own, *given]
        # Not by `self.stepper =`, which would look for its name in vars(self), and slow down every later look into it.
        object.__setattr__(self, "stepper", Stepper(self.rule, params, hypers, flags or {}, options))
        self._last: list[Report | None] = [None]

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if hasattr(cls, "rule"):
            attributes.show(cls)

    @classmethod
    def with_(cls, **arguments: Any) -> partial[Self]:
        """This rule with some of its arguments, for a part of the parameters (see fu.Partition): cls(params, …).

        arguments  by name: those of the class but for `params`, which are looked at when the optimizer is made
        """
        return partial(cls, **arguments)

    lr = attributes.Hyper("lr")  # the others likewise, by attributes.show

    def __repr__(self) -> str:
        return describe.text(type(self).__name__, self.stepper) if "stepper" in vars(self) else object.__repr__(self)

    def _repr_html_(self) -> str:
        return describe.html(type(self).__name__, self.stepper)

    def _check_new(self, name: str) -> None:
        if "stepper" in vars(self):  # before that, it is being made
            super()._check_new(name)

    def _place(self, argument: str) -> Place:
        return Place(self.rule.name, argument)

    @property
    def report(self) -> Report | None:
        """What the last step returned; None before the first."""
        return self._last[0]

    @property
    def params(self) -> Any:
        """The parameters, as they were handed in."""
        return self.stepper.tree

    @params.setter
    def params(self, _: object) -> None:
        attributes.fail(self, "params", "a new optimizer for other parameters, or theirs written in place")

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups, in the order of each group's first tensor; `opt.groups[0]["lr"] = 0.1` sets a value of one."""
        return tuple(self.stepper.hypers.groups)

    @groups.setter
    def groups(self, _: object) -> None:
        attributes.fail(self, "groups", "values set one by one, as opt.groups[0]['lr'] = x")

    def group(self, pattern: Pattern) -> Group:
        """The group of the tensors that match; ValueError if they are of several (see fu.groups for patterns)."""
        place = self.stepper.place("pattern")
        return attributes.group_of(place, Finder(sources(self.stepper.items))(place, pattern), self.groups)

    # -- the step -----------------------------------------------------------------------------------------------------

    def step(
        self, grads: Any = None, *, loss_scale: float = 1.0, reduce: Reduce | None = None, loss: float | None = None
    ) -> Report:
        """Updates every parameter once; raises before anything has changed, or does the whole step.

        grads       same structure, shapes and dtypes as the parameters, or for float32 parameters float16 or bfloat16;
                    fu.Rows, or a pair (indices, values), for few rows; None: the accumulated or bound ones, or p.grad
        loss_scale  what the loss was multiplied by: gradients are divided by it
        reduce      "mean" or "sum" over one more leading axis of per-sample gradients
        loss        what the option `outliers` is to judge beside the gradient norm
        """
        again = self.stepper.again
        report = None if again is None else again(grads, loss_scale, reduce, loss)
        if report is None:
            report = self.stepper.step(grads, loss_scale, reduce, loss)
        self._last[0] = report
        return report

    def before_replay(self, *, loss_scale: float = 1.0) -> Report:
        """Makes a step that was captured in a CUDA graph the next one; to be called before each launch of the graph.

        Uploads step count, learning rate and all other numbers of the step on the current stream, on which the graph
        is to be launched, and counts the step. The report can be looked at after the launch.
        """
        self._last[0] = report = self.stepper.undecided.before_replay(self.stepper, loss_scale)
        return report

    def start_at(self, step: int) -> None:
        """Makes the next step number `step` (1 for a fresh optimizer): for states that were trained elsewhere.

        Tensors that are frozen keep their own counts; a date (`frozen_until`) is ahead or past by the new number.
        """
        self.stepper.start_at(first_step(self.stepper.place("step"), step))

    def bind(self, grads: Any) -> None:
        """Names the gradient buffers that every later `step()` reads, as `step` takes them.

        They are the arrays that are there now. Write into them; for others, which may have come into the same list,
        call `bind` again.
        """
        self.stepper.bind(grads)

    def accumulate(self, grads: Any = None, *, reduce: Reduce | None = None, weight: float = 1.0) -> None:
        """Adds one micro-batch; the next `step()` moves by the mean over all of them. Arguments as in `step`, and

        weight  how much it counts in the mean: Σ weight·gradient / Σ weight. Say its number of samples or tokens; 0 is
                allowed, if not for all of them. A step's `loss_scale` divides as ever
        """
        self.stepper.accumulate(grads, reduce, weight)

    def discard(self) -> None:
        """Forgets the micro-batches that were accumulated since the last step."""
        self.stepper.discard()

    # -- what is kept -------------------------------------------------------------------------------------------------

    @property
    def step_count(self) -> int:
        """Steps taken."""
        return self.stepper.step_count

    @property
    def state(self) -> dict[str, Any]:
        """The states by name, each a structure of arrays like the parameters. The arrays are the live ones.

        Where a rule has one number for a range of elements, they are float64 arrays of so many; what it has for the
        whole list is there for each parameter, and is one and the same array.
        """
        kept = [name for name in self.rule.kept(self.stepper.flags) if name not in self.rule.passing]
        states = {name: self._structured(lambda item, name=name: item.shown_state(name)) for name in kept}
        return cast(dict[str, Any], attributes.live(self.stepper.place("state"), states))

    @state.setter
    def state(self, _: object) -> None:
        attributes.fail(self, "state", "arrays written in place, or load_state_dict")

    @property
    def ema(self) -> Any:
        """The moving average of the parameters (`ema_decay`), structured like them; None if it is off."""
        return None if self.stepper.settings.ema_decay is None else self._live("ema")

    @property
    def shadow(self) -> Any:
        """The low-precision copies (`shadow`), structured like the parameters; bfloat16 as uint16 bits. None if off."""
        return None if self.stepper.settings.shadow is None else self._live("shadow")

    @property
    def slow(self) -> Any:
        """Lookahead's slow weights (`lookahead`), structured like the parameters; None if it is off."""
        return None if self.stepper.settings.lookahead is None else self._live("slow")

    def _live(self, role: str) -> Any:
        return attributes.live(self.stepper.place(role), self._structured(lambda item: shown(item.slots[role])))

    def _structured(self, pick: Any) -> Any:
        check_tree(self.stepper.containers, self.stepper.items)
        by_path = {item.path: item for item in self.stepper.items}
        return tree.rebuild(self.stepper.tree, lambda path: pick(by_path[path]))

    def resync(self) -> None:
        """Makes slow weights, moving average and low-precision copies follow the parameters as they are now.

        To be called after parameters were set by other means than `step` and `load_state_dict`: those three hold the
        weights that the optimizer has seen, and would pull new ones back.
        """
        with self.stepper.exclusive():
            self.stepper.check(self.stepper.items)
            new = [
                device.assignment(item.slots[kind], values)
                for item in self.stepper.items
                for kind, values in following(item.array, self.stepper.settings).items()
            ]
            at_once(new)

    def ema_weights(self) -> AbstractContextManager[Any]:
        """Within the context the parameters hold their moving average; afterwards they are as before, bit for bit."""
        if self.stepper.settings.ema_decay is None:
            self.stepper.place("ema_decay").fail(ValueError, "a decay, set when the optimizer was made", "None")
        return lending(self.stepper, lambda item: item.slots["ema"])

    def eval(self) -> None:
        """Makes the parameters those to judge a model by, if the rule trains it at others (the schedule-free ones).

        Until `train` is called, steps raise ValueError. With other rules, and if it has been called, nothing changes.
        """
        with self.stepper.exclusive():
            at_once(turning(self.stepper, evaluating=True))

    def train(self) -> None:
        """Makes the parameters those to train at, again."""
        with self.stepper.exclusive():
            at_once(turning(self.stepper, evaluating=False))

    # -- transfer learning --------------------------------------------------------------------------------------------

    def freeze(self, pattern: Pattern) -> list[str]:
        """Stops updating the tensors whose dotted names match; returns the names. Their states are held.

        A frozen tensor costs nothing, and its gradient may be None or absent.
        """
        return self._set_frozen(pattern, math.inf, "hold")

    def unfreeze(self, pattern: Pattern, *, state: Literal["hold", "reset"] | float = "hold") -> list[str]:
        """Updates matching tensors again; returns the names. Those that were not frozen go on as they are.

        state: "hold" goes on from the states and step counts as they were; "reset" starts anew; a number in
        [0, 1] brings the states so near to their start: those that start from zero are multiplied by it.
        """
        if not isinstance(state, str):
            state = real(self.stepper.place("state"), state, FRACTION)
        elif state not in ("hold", "reset"):
            self.stepper.place("state").fail(ValueError, "'hold', 'reset' or a number in [0, 1]", repr(state))
        return self._set_frozen(pattern, 0.0, state)

    def _set_frozen(self, pattern: Pattern, until: float, state: str | float) -> list[str]:
        with self.stepper.exclusive():
            self.stepper.micro_batches.check_none("pattern")
            self.stepper.check(self.stepper.items)
            dates.thaw(self.stepper)
            names = Finder(sources(self.stepper.items))(self.stepper.place("pattern"), pattern)
            self.stepper.plan.keep_times()
            items = [item.but() for item in self.stepper.items]
            found = [item for item in items if item.name in names]
            thawed = [item for item in found if item.frozen and state != "hold"]
            factor = 0.0 if isinstance(state, str) else state
            kept = slots.states(self.rule, self.rule.kept(self.stepper.flags))
            new = [
                device.assignment(array, np.broadcast_to(np.asarray(value, array.dtype), array.shape))
                for item in thawed
                for array, value in slots.thawing(kept, item, factor, self.groups)
            ]
            autograd.about_to_write(tensor for item in thawed for tensor in item.torch_tensors)
            for item in found:
                item.frozen_until = until
            for item in thawed if state == "reset" else ():
                item.t = 0
            at_once([*new, *self.stepper.replanning(items, self.step_count)])
            return [item.name for item in found]

    # -- saving and resuming ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on beside the parameters, as copies: a plain dict of arrays and numbers.

        That is states, step counts, averages, slow weights, low-precision copies, accumulated micro-batches, frozen
        flags, hyperparameters, the state of schedules that have one (`plateau`), how many steps were skipped in a row
        and what outliers are judged by.
        """
        with self.stepper.exclusive():
            self.stepper.check(self.stepper.items)
            return saving.copied(self.stepper)

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True, rename: Rename | None = None) -> Loaded:
        """Takes over what `state_dict` or `fu.load` gave; the latter restores the parameters too, in place.

        strict  whether state and optimizer must have the same tensors, groups and options. If not, what they share is
                taken, tensor by tensor; rule, shapes and dtypes must agree all the same
        rename  names in the state → names here: a mapping of those that differ, or a function of every name

        Returns what was taken, what the state lacks and what it has too much. Everything is checked first: ValueError
        or TypeError names the first difference, and nothing has changed; the same if an interrupt comes. Schedules stay
        those of this optimizer; only their state, if they have one, is taken over.
        """
        with self.stepper.exclusive():
            self.stepper.check(self.stepper.items)
            self.stepper.plan.keep_times()
            new = loading(self.stepper, state, strict=strict, rename=rename)
            autograd.about_to_write(tensor for item in self.stepper.items for tensor in item.torch_tensors)
            at_once(new.assignments, new.schedules)
            return new.report

    def save(self, path: str | PathLike[str]) -> None:
        """Writes state and parameters to a safetensors file, for `fu.load`. Needs fastupdate[checkpoint].

        At any moment, even if the machine stops, `path` is the old file or the new one, whole.
        """
        with self.stepper.exclusive():
            self.stepper.check(self.stepper.items)
            file.write(path, saving.snapshot(self.stepper, params=True))

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: what the optimizer was made of, parameters included, and its state; nothing bound."""
        attributes = {name: value for name, value in vars(self).items() if name not in ("stepper", "_last")}
        return {"ingredients": saving.ingredients(self.stepper), "state": self.state_dict(), "attributes": attributes}

    def __setstate__(self, kept: Mapping[str, Any]) -> None:
        hypers = self.rule.defaults  # of what was no hyperparameter yet, and so is in no group
        Optimizer.__init__(self, **{**kept["ingredients"], "hypers": hypers})
        self.load_state_dict(kept["state"])
        vars(self).update(kept["attributes"])


def first_step(place: Place, value: Any) -> int:
    """The number of a step to start at."""
    step = integer(place, value)
    if step >= 2**62:
        place.fail(ValueError, "an integer ≥ 1 and below 2⁶²", repr(step))
    return step
