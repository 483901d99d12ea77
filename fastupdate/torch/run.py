"""Runs: the steps of parameters that move together, by a stepper over torch's own parameters and states.

What a run was made for is looked at again in every step: lists of parameters, values of groups, states, step counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from fastupdate.arrays.memory import address
from fastupdate.arrays.place import Place
from fastupdate.arrays.tree import leaves
from fastupdate.engines.records import STEPS, Records
from fastupdate.step.report import Report
from fastupdate.step.stepper import Stepper
from fastupdate.torch.agreement import agree
from fastupdate.torch.counts import counts_of, move_together
from fastupdate.torch.factors import owners_of
from fastupdate.torch.lent import Lent
from fastupdate.torch.listed import Listed, check_alike, resting
from fastupdate.torch.looking import Lookout, SeenGroups, Tally, UnseenGroups, same_objects, step_again
from fastupdate.torch.meeting import meeting_of
from fastupdate.torch.names import STEP, check_entries
from fastupdate.torch.numbers import (
    DECOUPLED,
    decay_of,
    name_in_group,
)
from fastupdate.torch.seen import LR, SHARED_SWITCHES, Row, flags_of
from fastupdate.torch.shards import Shards, part_of
from fastupdate.torch.states import Entry, States

if TYPE_CHECKING:
    from fastupdate.torch.optimizer import Optimizer

MOST_RUNS = 1024
GLOBAL_HOOKS = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)
Again = Callable[["Optimizer"], Report | None]  # a step, if it is like the one before


def choose(optimizer: Optimizer, runs: dict[Any, Run], last: Run | None) -> Run | None:
    """The run for the parameters that have gradients now; None if none has. last: that of the step before"""
    groups = optimizer.param_groups
    still = resting(optimizer.rule, groups)
    moving = [
        [p for p in group["params"] if p.grad is not None and not rests]
        for group, rests in zip(groups, still, strict=True)
    ]
    key = tuple(tuple(map(id, params)) for params in moving)
    run = runs.get(key)
    if run is not None and not run.holds(optimizer):
        del runs[key]
        run = None
    if optimizer.met is not None and (run is None or optimizer.met is not run.meeting):
        optimizer.met.part(moving)
    steps = 0 if last is None else int(last.stepper.clock[STEPS])
    agree(optimizer, moving, steps, known=optimizer.met is not None)
    if not any(moving):
        optimizer.met = None
        return None
    if run is None:
        for other in [k for k, run in runs.items() if not run.owned(optimizer.state)]:
            del runs[other]
        if len(runs) >= MOST_RUNS:
            del runs[next(iter(runs))]
        run = runs[key] = Run(optimizer, groups, moving, tree_of(groups, moving))
    optimizer.met = run.meeting
    return run


class Run:
    """The steps of some of an optimizer's parameters.

    groups    theirs: all of the optimizer's, whose other parameters have no gradients; or one, for a step of its own
    moving    the parameters, group by group
    tree      the parameters under the names that messages use
    stepper   what takes the steps
    params    the parameters, in the order of the steps
    meeting   what ranks that share them do together; None: nothing
    """

    def __init__(
        self, optimizer: Optimizer, groups: list[dict[str, Any]], moving: list[list[Any]], tree: Mapping[Any, Any]
    ) -> None:
        rule = optimizer.rule
        self._rule = rule
        self._whole = groups is optimizer.param_groups
        self._groups = groups
        self._outdated = False  # what groups said has come to mean other equations
        self._rows = [Row(rule, group) for group in groups]
        self._seen = [row.seen for row in self._rows]
        chosen = {id(p) for params in moving for p in params}
        self._still = self._resting()
        awake = [row for row, rests in zip(self._rows, self._still, strict=True) if self._whole and not rests]
        self._waiting = [p for row in awake for p in row.params if id(p) not in chosen]
        self._flags = flags_of(rule, self._rows)
        hypers = rule.flag_hypers.values()
        self._decisive = {*rule.flags, *(name_in_group(rule, hyper) for hyper in hypers), *SHARED_SWITCHES}
        self._moving = {k: row for row, k in enumerate(k for k, params in enumerate(moving) if params)}
        self._states = optimizer.state
        self._shards = Shards(rule, (p for params in moving for p in params))
        self._shared = bool(self._shards.params)
        owners = {} if rule.matrix is None else owners_of(groups)
        self._lent = Lent(self._states, self._shards, owners)
        self.stepper = self._make(optimizer.options, moving, tree)
        self._now = self.stepper.clock.data  # which Python reads sooner
        self._rates = self.stepper.hypers.column("lr")
        self._listed = Listed(rule, self.stepper.items) if rule.states_of("list") else None
        look = UnseenGroups if self._listed is not None or not self._whole else SeenGroups  # lr may let a group rest
        places = [self._moving.get(k, -1) for k in range(len(groups))]
        self._looked = look(self._seen, self._rates, places, *rule.hypers["lr"][:2])
        self.params = [self._shards.whole(item.source) for item in self.stepper.items]
        self.meeting = meeting_of(self.stepper, self.params, groups, moving, self._shards, owners)
        self._told = np.zeros(1, np.int64).data  # the step count that states and groups tell of
        self._find_counts()
        self._lookout = Lookout(self._lent.tensors())
        self._revision = self._states.revision.number
        shared = self._shared or self._listed or self.meeting
        self._ordinary = self._whole and rule.evaluated is None and not (self._waiting or shared)
        self._again: tuple[tuple[Any, int], Again | None] = (None, 0), None

    def _make(self, options: Mapping[str, Any], moving: list[list[Any]], tree: Mapping[Any, Any]) -> Stepper:
        self._check_devices(tree)
        groups = [{"params": [part_of(p) for p in moving[k]], **self._numbers(k)} for k in self._moving]
        flags = {flag: self._flags[flag] for flag in self._rule.flags}
        decay = decay_of(self._rule, self._flags[DECOUPLED], options.get("decay"))
        given = {**options, "groups": groups, "maximize": self._flags["maximize"], "decay": decay}
        numbers = self._numbers(next(iter(self._moving)))
        return Stepper(self._rule, tree, numbers, flags, given, self._lend, self._lent.follow)

    def _check_devices(self, tree: Mapping[Any, Any]) -> None:
        """TypeError names the first parameter that is not in the CPU's memory."""
        place = Place(self._rule.name, "params")
        for path, p in leaves(tree, place):
            if p.device.type != "cpu":
                expected = f"a tensor on the CPU (fu.{self._rule.formula.__name__} takes those on NVIDIA GPUs)"
                place.of_leaf(path).fail(TypeError, expected, f"one on {p.device}")

    def _lend(self, stepper: Stepper) -> None:
        found = ((item.path, self._states.get(self._shards.whole(item.source))) for item in stepper.items)
        check_entries(self._rule, ((path, entry) for path, entry in found if isinstance(entry, Entry)), "state")
        try:
            self._lent(stepper)
        except BaseException:
            self._lent.withdraw()
            raise

    def _resting(self) -> list[bool]:
        """Which groups take no part; ValueError if they are at odds."""
        values = [row.values for row in self._rows]
        check_alike(self._rule, values)
        return resting(self._rule, values)

    def _numbers(self, k: int) -> dict[str, Any]:
        """The hyperparameters of a group."""
        return {name: value for name, value in self._rows[k].values.items() if name not in self._flags}

    # -- what a step looks at -----------------------------------------------------------------------------------------

    def holds(self, optimizer: Optimizer) -> bool:
        """Whether this is still the run for the optimizer's parameters and state; takes in what its groups say."""
        return (
            not self._outdated
            and self._same_groups(optimizer.param_groups)
            and all(p.grad is None for p in self._waiting)
            and self._same_states(optimizer.state)
            and (not self._shared or self._shards.intact())
            and (not self._shared or all(p.grad is not None for p in self.params))
            and self._same_counts()
        )

    def _same_groups(self, groups: list[dict[str, Any]]) -> bool:
        if not self._whole:
            if not any(group is self._groups[0] for group in groups):
                return False
            groups = self._groups
        if len(groups) != len(self._rows):
            return False
        self._groups = groups
        changed: Sequence[int] = self._looked.changed(groups)
        if self._whole and not all(same_objects(groups[k]["params"], self._rows[k].params) for k in changed):
            return False
        if not changed:
            return True
        self._outdated = True  # should groups or options be wrong or at odds: a new run will say so again
        found = {k: self._rows[k].changes(groups[k]) for k in changed}
        changes = {k: names for k, names in found.items() if names}
        self._seen[:] = [row.seen for row in self._rows]
        self._outdated = bool(changes) and not self._take(changes)
        return not self._outdated

    def _take(self, changes: dict[int, Sequence[str]]) -> bool:
        """Takes in new values of some groups; False if they mean other equations or states."""
        decided = any(self._decisive.intersection(names) for names in changes.values() if names is not LR)
        if decided and flags_of(self._rule, self._rows) != self._flags:
            return False
        if any(self._rule.made_by.intersection(names) for names in changes.values()):
            return False
        if self._listed is not None and self._resting() != self._still:
            return False
        moving = {k: names for k, names in changes.items() if k in self._moving}
        rates = {self._moving[k]: self._rows[k].values["lr"] for k, names in moving.items() if names is LR}
        self._rates[list(rates)] = list(rates.values())
        for k, names in moving.items():
            if names is not LR:
                values, group = self._rows[k].values, self.stepper.hypers.groups[self._moving[k]]
                for name in names:
                    if name not in self._flags:
                        group[name] = values[name]
        return True

    def _same_states(self, states: States) -> bool:
        if states is not self._states:
            return False
        if states.revision.number != self._revision:
            if not (self._lent.intact() and self._lookout.intact() and self._counted_here()):
                return False
            self._revision = states.revision.number
        return not states.revision.shown or self._lookout.intact()

    def owned(self, states: Any) -> bool:
        """Whether all its parameters are still in the optimizer's state."""
        return states is self._states and self._lent.intact()

    # -- step counts --------------------------------------------------------------------------------------------------

    def _find_counts(self) -> None:
        self._tally: Any = None
        self._told[0] = self._now[STEPS]
        if not self._lent.counted:
            return
        entries = [entry for _, entry in self._lent.owners]
        found = counts_of(entries)
        if found is None:  # all of the state's, so that another choice of parameters finds its own among them
            move_together(self._counted() if self._whole else entries)
            found = counts_of(entries)
            assert found is not None
        self._counts, self._places = found
        self._tally = Tally(self._counts, self._places)

    def _counted(self) -> list[Any]:
        """The states that hold a step count, of all parameters of the groups."""
        found = [self._states.get(p) for row in self._rows for p in row.params]
        return [entry for entry in found if isinstance(entry, Entry) and STEP in entry]

    def _counted_here(self) -> bool:
        """Whether the step counts in the state are still the ones that are counted."""
        if self._tally is None:
            return True
        found = counts_of(entry for _, entry in self._lent.owners)
        return found is not None and address(found[0]) == address(self._counts) and found[1] == self._places

    def _same_counts(self) -> bool:
        """Whether the step counts are those of the stepper; follows them if they were changed."""
        if self._tally is None:
            return True
        self.show_counts()
        if self._tally.intact():
            return True
        counts = np.maximum(self._counts[self._places], 0).astype(np.int64)
        if not self.stepper.retime(counts):
            return False
        self._tally.look()
        self._told[0] = self._now[STEPS]
        return True

    def show_counts(self) -> None:
        """Writes the step counts to the state, where an interrupt has kept a step from doing so."""
        if self._tally is not None and self._now[STEPS] != self._told[0]:
            self._counts[self._places] = self.stepper.plan.counts
            self._tally.look()
            self._tell(self._now[STEPS] - self._told[0])
            self._told[0] = self._now[STEPS]

    def _tell(self, steps: int) -> None:
        """Writes numbers of the whole list to the groups, some steps having been taken."""
        if self._listed is not None:
            self._listed.write(self._groups, steps)

    def keep_states(self) -> None:
        """Keeps the states that were made, though no step was taken."""
        self._lent.made.clear()

    # -- the step -----------------------------------------------------------------------------------------------------

    def measure(self) -> Records:
        """The sums of the gradients as they are; nothing moves."""
        return self.stepper.measure()

    def step(self, loss_scale: float, totals: Records | None = None) -> Report:
        """One step; if it raises, nothing has changed.

        totals: sums of the gradients, if they are known
        """
        try:
            self.prepare(totals)
            report = self.stepper.step(None, loss_scale, None)
        except BaseException as error:
            self.give_up(error)
            raise
        finally:
            self.let_go()
        if not report.skipped:
            self.count()
        return report

    def again(self) -> Again | None:
        """What takes a step that is like the one before; None, if this run's steps take more."""
        planned = self.stepper.plan, self._revision
        if self._again[0] != planned:
            self._again = planned, self._taking_again()
        settled = not (self._outdated or self._lent.made or self.stepper.hypers.impure)
        return self._again[1] if settled else None

    def _taking_again(self) -> Again | None:
        plan, lookout = self.stepper.plan, self._lookout.glance
        if step_again is None or lookout is None or not (self._ordinary and plan.takes_held):
            return None
        again: Again = step_again(
            {
                "plan": plan.engine,
                "params": plan.arrays,
                "scale": self.stepper.sign,
                "report": Report,
                "groups": self._looked,
                "states": self._states,
                "revision": self._states.revision,
                "number": self._revision,
                "lookout": lookout,
                "tally": self._tally,
                "told": self._told.obj,
                "lock": self.stepper.lock,
                "profiled": torch.autograd._profiler_enabled,  # type: ignore[attr-defined]
                "global_hooks": GLOBAL_HOOKS,
            }
        )
        return again

    def prepare(self, totals: Records | None = None) -> None:
        """What comes before a step of the stepper, which may be one of several that take it together."""
        if self.meeting is not None:
            self.meeting.begin()
        if self._listed is not None:
            self._listed.read(self._groups)
        if self._shared:
            self._shards.hand_over()
        if self.meeting is not None:
            totals = self.meeting.prepare()
        if totals is not None:
            self.stepper.plan.totals[:] = totals
            self.stepper.plan.measured = True

    def give_up(self, error: BaseException) -> None:
        """Takes back what was made for a step that was not taken, and tells other ranks of that."""
        if self._now[STEPS] == self._told[0]:
            self._lent.withdraw()
        if self.meeting is not None and isinstance(error, Exception):
            self.meeting.fail()

    def let_go(self) -> None:
        """What comes after a step, taken or not."""
        self.stepper.plan.measured = False
        if self._shared:
            self._shards.take_back()

    def count(self) -> None:
        """What comes after a step that was taken."""
        self._lent.made.clear()
        if self._tally is not None:
            self._tally.advance()
        if self._listed is not None:
            self._tell(1)
        self._told[0] += 1


def tree_of(groups: list[dict[str, Any]], moving: list[list[Any]]) -> Mapping[Any, Any]:
    """The parameters, or what is here of them, by name, if they have one each; else by group and place in it."""
    chosen = {id(p) for params in moving for p in params}
    found = [
        (k, i, part_of(p)) for k, group in enumerate(groups) for i, p in enumerate(group["params"]) if id(p) in chosen
    ]
    named = {groups[k]["param_names"][i]: p for k, i, p in found if "param_names" in groups[k]}
    if len(named) == len(found):
        return named
    tree: dict[int, dict[int, Any]] = {}
    for k, i, p in found:
        tree.setdefault(k, {})[i] = p
    return tree
