"""A plain dict, as saving.state describes it, → an optimizer, after every check."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from operator import setitem
from typing import Any, NamedTuple

import numpy as np

from fastupdate.arrays import accept, device
from fastupdate.arrays.memory import Array, Assignment
from fastupdate.arrays.numbers import LIMIT, NON_NEGATIVE, real, switch
from fastupdate.arrays.place import Place
from fastupdate.engines.records import MICRO_BATCHES, STEPS
from fastupdate.saving.checks import (
    PART,
    Rename,
    at,
    check_default,
    check_keys,
    check_mapping,
    check_ours,
    count,
    renamed,
)
from fastupdate.saving.state import VERSION, Arrays, arrays_of, has_state, split
from fastupdate.step import slots
from fastupdate.step.hypers import FROZEN_UNTIL, Group
from fastupdate.step.stepper import Stepper
from fastupdate.step.tensors import ACCUMULATOR, state_kind
from fastupdate.step.transaction import Stateful

KEYS = (
    *("version", "rule", "flags", "step", "micro_batches", "weight", "skips", "outliers", "limits"),
    *("tensors", "groups", "arrays", "evaluating"),
)


class Loaded(NamedTuple):
    """What `load_state_dict` did, by the keys of `state_dict()["arrays"]`, and `groups[0].lr` for hyperparameters,
    `outliers` for the past that they are judged by, `limits.clip_norm` for the schedule of a limit.

    taken            what now is as in the state
    missing_keys     what the state lacks: as it was before; averages and copies of a loaded tensor follow its weights,
                     and what the next step makes anew starts from zero
    unexpected_keys  what the optimizer has no place for
    """

    taken: list[str]
    missing_keys: list[str]
    unexpected_keys: list[str]


class Loading(NamedTuple):
    """A checked state, ready to be taken over: what to assign, and which schedules have a state of their own in it."""

    report: Loaded
    assignments: list[Assignment]
    schedules: list[Stateful]


def loading(stepper: Stepper, state: Mapping[str, Any], *, strict: bool, rename: Rename | None) -> Loading:
    """Checks a state against an optimizer, and makes all that taking it over needs; changes nothing."""
    return _Loading(stepper, state, strict, rename).made()


class _Loading:
    """What checking a state goes by: the optimizer, the state with its tensors renamed, and what was found."""

    def __init__(self, stepper: Stepper, state: Any, strict: bool, rename: Rename | None) -> None:
        self.stepper = stepper
        self.items = [item.but() for item in stepper.items]
        self.place = Place(stepper.rule.name, "state_dict")
        self.strict = switch(Place(stepper.rule.name, "strict"), strict)
        self.report = Loaded([], [], [])
        check_ours(self.place, state, stepper.rule.formula.__name__)
        state = _upgraded(state)
        check_keys(self.place, state, KEYS)
        self.version = self._checked_version(state["version"])
        self._check_rule(state)
        self.state = state
        check_mapping(self.at("tensors"), state["tensors"])
        self.renamed = renamed(Place(stepper.rule.name, "rename"), list(state["tensors"]), rename)

    def at(self, key: str) -> Place:
        return at(self.place, key)

    def _checked_version(self, version: Any) -> int:
        if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= VERSION:
            self.at("version").fail(ValueError, f"at most {VERSION} (a later fastupdate reads more)", repr(version))
        return version

    def _check_rule(self, state: Mapping[str, Any]) -> None:
        rule = self.stepper.rule.name
        if state["rule"] != rule:
            self.at("rule").fail(ValueError, repr(rule), repr(state["rule"]))
        if self.strict:
            self._check_flags(self.at("flags"), state["flags"])

    def _check_flags(self, place: Place, saved: Any) -> None:
        """ValueError unless they are those of the optimizer; of some a number says in both whether they are on."""
        check_mapping(place, saved)
        own, lacking = self.stepper.flags, self.stepper.flags.keys() - saved.keys()
        for flag in lacking - self.stepper.rule.flag_hypers.keys():
            check_default(at(place, flag), own[flag], False)
        check_keys(place, saved, own.keys() - lacking, PART)
        for flag, on in saved.items():
            if on != own[flag]:
                at(place, flag).fail(ValueError, repr(own[flag]), f"{on!r}{PART}")

    def made(self) -> Loading:
        """All of it."""
        step, micro_batches = (count(self.at(key), self.state[key]) for key in ("step", "micro_batches"))
        self._take_times()
        hypers, schedules = self._hyperparameters()
        received = self._received()
        moving = [item for item in self.items if micro_batches and step >= item.frozen_until]
        for item in self.items:
            item.resting = False
        if self.stepper.settings.missing == "skip":  # what has no accumulator had no gradient so far
            for item in moving:
                item.resting = ("accumulator", item.name) not in received
            moving = [item for item in moving if not item.resting]
        if not self.strict and any(("accumulator", item.name) not in received for item in moving):
            micro_batches, moving = 0, []  # a mean over some of the tensors alone is none
        for item in self.items:
            item.slots = {kind: array for kind, array in item.slots.items() if kind != ACCUMULATOR}
        slots.allocate(moving, [slots.ACCUMULATORS])
        assignments = self._copies(received)
        assignments += self.stepper.hypers.restoring(hypers)
        assignments += self.stepper.replanning(self.items, step)
        clock = np.array([step, micro_batches], np.int64)
        assignments += self._memory(micro_batches)
        assignments.append((setattr, self.stepper, "evaluating", self._mode()))
        assignments.append((setitem, self.stepper.clock, slice(STEPS, MICRO_BATCHES + 1), clock))
        return Loading(self.report, assignments, [*schedules, *self._limits()])

    def _mode(self) -> bool:
        """Whether the weights that belong to the state are those to judge a model by."""
        evaluating = self.state["evaluating"]
        if evaluating is not False and (evaluating is not True or self.stepper.rule.evaluated is None):
            self.at("evaluating").fail(
                ValueError, "False" if self.stepper.rule.evaluated is None else "True or False", repr(evaluating)
            )
        return evaluating

    # -- what steps go by ---------------------------------------------------------------------------------------------

    def _memory(self, micro_batches: int) -> list[Assignment]:
        """What micro-batches weigh, steps skipped in a row, the past that outliers are judged by."""
        weight = real(self.at("weight"), self.state["weight"], NON_NEGATIVE)
        skips, past = self.stepper.skips, self.state["outliers"]
        new = [self.stepper.micro_batches.weighing(micro_batches, weight)]
        new.append((setattr, skips, "count", count(self.at("skips"), self.state["skips"])))
        check_mapping(self.at("outliers"), past)
        if self._both("outliers", skips.outliers is not None, bool(past)) and skips.outliers:
            new.append(skips.outliers.restoring(self.at("outliers"), past))
        return new

    def _limits(self) -> list[Stateful]:
        """The schedules of clipping limits that have a state of their own."""
        place, saved, settings = self.at("limits"), self.state["limits"], self.stepper.settings
        check_mapping(place, saved)
        found: list[Stateful] = []
        for name in dict.fromkeys([*settings.scheduled, *saved]):
            if self._both(f"limits.{name}", name in settings.scheduled, name in saved):
                check_mapping(at(place, name), saved[name])
                found += _schedule(at(place, name), getattr(settings, name), saved[name])
        return found

    def _both(self, key: str, here: bool, there: bool) -> bool:
        """Whether the optimizer has something and the state has it too, which goes into the report."""
        if here and there:
            self.report.taken.append(key)
        elif here != there:
            if self.strict and self.version == VERSION:
                self.at(key).fail(
                    ValueError, *(("an entry", f"none{PART}") if here else ("no such entry", f"one{PART}"))
                )
            (self.report.missing_keys if here else self.report.unexpected_keys).append(key)
        return here and there

    # -- tensors --------------------------------------------------------------------------------------------------

    def _take_times(self) -> None:
        """Each tensor's own step count, and the step count from which it moves."""
        tensors = {self.renamed[name]: entry for name, entry in self.state["tensors"].items()}
        if self.strict:
            check_keys(self.at("tensors"), tensors, [item.name for item in self.items], PART)
        for item in self.items:
            if item.name in tensors:
                entry, own = tensors[item.name], at(self.at("tensors"), item.name)
                check_keys(own, entry, ("step", FROZEN_UNTIL))
                item.t = count(at(own, "step"), entry["step"])
                item.frozen_until = real(at(own, FROZEN_UNTIL), entry[FROZEN_UNTIL], LIMIT)

    def _received(self) -> dict[tuple[str, str], Any]:
        """The arrays of the state by kind and new name."""
        check_mapping(self.at("arrays"), self.state["arrays"])
        received = {}
        for key, array in self.state["arrays"].items():
            kind, name = split(key)
            received[kind, self._new(name)] = array
        return received

    def _copies(self, received: Mapping[tuple[str, str], Any]) -> list[Assignment]:
        """The assignments of all arrays, after every check."""
        params = any(kind == "param" for kind, _ in received)
        targets = arrays_of(self.items, {item.name for item in self.items}, params=params)
        place, remade = self.at("arrays"), {state_kind(name) for name in self.stepper.rule.remade}
        if self.strict:
            needed = [key for key in targets if key in received or key[0] not in remade]
            check_keys(place, dict.fromkeys(map(".".join, received)), map(".".join, needed), PART)
        self.report.unexpected_keys.extend(".".join(key) for key in received if key not in targets)
        sources: Arrays = {}
        for key, target in targets.items():
            joined = ".".join(key)
            if key not in received:
                self.report.missing_keys.append(joined)
                if key[0] in remade:
                    sources[key] = np.zeros(target.shape, target.dtype)
                continue
            self.report.taken.append(joined)
            sources[key] = _like(received[key], target, place, joined)
            if not target.flags.writeable:
                Place(place.rule, joined).fail(ValueError, "a writable array", "a read-only one")
        sources |= self._followers(sources, targets)
        return [device.assignment(targets[key], source) for key, source in sources.items()]

    def _followers(self, sources: Arrays, targets: Arrays) -> Arrays:
        """Averages, slow weights and copies that the state lacks, of tensors that it has."""
        found: Arrays = {}
        known = set(self.renamed.values())
        for item in self.items:
            keys = [(slot.kind, item.name) for slot in slots.followers(self.stepper.settings)]
            lacking = [key for key in keys if key in targets and key not in sources]
            if lacking and item.name in known:
                weights = sources.get(("param", item.name), item.array)
                values = slots.following(weights, self.stepper.settings)
                found |= {key: values[key[0]] for key in lacking}
        return found

    # -- hyperparameters ------------------------------------------------------------------------------------------

    def _hyperparameters(self) -> tuple[list[dict[str, float]], list[Stateful]]:
        """The numbers of each group, and the schedules that have a state of their own with it.

        A group of the optimizer takes what the groups of the state that hold its tensors agree on.
        """
        place, received, groups = self.at("groups"), self.state["groups"], self.stepper.hypers.groups
        if not isinstance(received, (list, tuple)):
            place.fail(ValueError, f"a list of {len(groups)} groups", type(received).__name__)
        for k, saved in enumerate(received):
            check_mapping(at(place, k), saved)
        members = [self._members(at(place, k), saved) for k, saved in enumerate(received)]
        if self.strict:
            self._check_partition(place, members, groups)
        holders = {name: k for k, names in enumerate(members) for name in names}
        numbers: list[dict[str, float]] = [{} for _ in groups]
        schedules: list[Stateful] = []
        for k, group in enumerate(groups):
            found = sorted({holders[name] for name in group["params"] if name in holders})
            for key in group.intervals():
                values = [received[j][key] for j in found if key in received[j]]
                own = at(at(place, found[0] if found else k), key)
                if not values and self.strict:
                    check_default(own, group[key], group.default(key))
                if not values or not self._agreed(own, group[key], values):
                    self.report.missing_keys.append(f"groups[{k}].{key}")
                    continue
                if group.has_no_effect(key, values[0]):
                    self._leave_out(own, f"groups[{k}].{key}")
                    continue
                self.report.taken.append(f"groups[{k}].{key}")
                if callable(group[key]):
                    schedules += _schedule(own, group[key], values[0])
                else:
                    numbers[k][key] = group.check(key, values[0])
        self._check_unknown(place, received, groups[0])
        return numbers, schedules

    def _agreed(self, place: Place, current: Any, saved: list[Any]) -> bool:
        """Whether the groups of the state agree on a value, and on one of the kind that there is."""
        if any(value != saved[0] for value in saved):
            return False
        if callable(current) == isinstance(saved[0], Mapping):
            return True
        if self.strict:
            kinds = ("a schedule", "a number") if callable(current) else ("a number", "a schedule")
            place.fail(ValueError, f"{kinds[0]}, as in this optimizer", kinds[1])
        return False

    def _members(self, place: Place, saved: Mapping[str, Any]) -> list[str]:
        names: Any = saved.get("params")
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            at(place, "params").fail(ValueError, "a list of names", repr(names))
        return [self._new(name) for name in names]

    def _new(self, name: str) -> str:
        return self.renamed.get(name, name)

    def _check_partition(self, place: Place, members: list[list[str]], groups: Sequence[Group]) -> None:
        if len(members) != len(groups):
            place.fail(ValueError, f"a list of {len(groups)} groups", f"{len(members)} of them")
        there = {frozenset(names) for names in members}
        for k, group in enumerate(groups):
            if frozenset(group["params"]) not in there:
                at(at(place, k), "params").fail(ValueError, repr(group["params"]), repr(members[k]))

    def _check_unknown(self, place: Place, received: Iterable[Mapping[str, Any]], group: Group) -> None:
        for k, saved in enumerate(received):
            for key in saved.keys() - {"params", *group.intervals()}:
                self._leave_out(at(at(place, k), key), f"groups[{k}].{key}")

    def _leave_out(self, place: Place, key: str) -> None:
        """Notes what there is no place for; ValueError where nothing may be left out."""
        if self.strict:
            place.fail(ValueError, "no such entry", f"one{PART}")
        self.report.unexpected_keys.append(key)


def _upgraded(state: Any) -> Any:
    """A state of an older version with what came later, as it was then; and the mode, which is said if it is eval."""
    if not isinstance(state, Mapping):
        return state
    if state.get("version") in (1, 2):
        state = {"weight": state.get("micro_batches"), "skips": 0, "outliers": {}, "limits": {}, **state}
    return {"evaluating": False, **state}


def _schedule(place: Place, current: Any, saved: Any) -> list[Stateful]:
    if not isinstance(saved.get("schedule"), Mapping):
        place.fail(ValueError, "a schedule, as in this optimizer", repr(saved))
    state = saved["schedule"]
    if not has_state(current):
        check_keys(at(place, "schedule"), state, ())
        return []
    return [(current, state)]


def _like(x: Any, target: Array, arrays: Place, key: str) -> Array:
    """x in host memory, if it has the dtype and shape of the target."""
    if type(x) is np.ndarray and x.dtype == target.dtype and x.shape == target.shape:
        return x
    place = at(arrays, key)
    if accept.framework_of(x) == "torch" and str(x.dtype) == "torch.bfloat16":
        x = x.detach().view(sys.modules["torch"].int16).cpu().numpy().view(np.uint16)
    array = device.on_host(accept.as_array(x, place))
    if array.dtype != target.dtype:
        place.fail(TypeError, target.dtype.name, array.dtype.name if array.dtype.isnative else str(array.dtype))
    if array.shape != target.shape:
        place.fail(ValueError, f"shape {target.shape}", f"shape {array.shape}")
    return array
