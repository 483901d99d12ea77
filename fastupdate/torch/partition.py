"""Several rules in one torch.optim.Optimizer: each group says by which rule its parameters go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from inspect import Parameter, signature
from typing import Any, TypeVar

import torch

from fastupdate.arrays.patterns import Finder
from fastupdate.arrays.place import Place
from fastupdate.engines import records
from fastupdate.rules.rule import Rule
from fastupdate.step.gradients import NoGradientError
from fastupdate.step.hypers import SHARED
from fastupdate.step.options import Options, Settings
from fastupdate.step.report import Joined, Report
from fastupdate.step.stepper import Stepper
from fastupdate.step.whole import WholeStep, take
from fastupdate.torch.inputs import check_params
from fastupdate.torch.looking import same_objects
from fastupdate.torch.modes import TRAIN_MODE, check_mode, turn
from fastupdate.torch.numbers import checked
from fastupdate.torch.optimizer import Optimizer
from fastupdate.torch.run import Run
from fastupdate.torch.seen import EquationsError, equations_of
from fastupdate.torch.states import States

T = TypeVar("T")
RULE = "rule"  # the entry of a group that names its rule


class Partition(Optimizer):
    """Several rules as one torch.optim.Optimizer: one step, one norm of all gradients, one state_dict.

        optimizer = fu.torch.Partition(
            [
                {"params": matrices, "rule": fu.Muon.with_(lr=0.02)},
                {"params": rest, "rule": fu.AdamW.with_(lr=3e-4), "weight_decay": 0.0},
            ],
            clip_norm=1.0,
        )
        optimizer = fu.torch.Muon(model.parameters(), lr=0.02, others=fu.AdamW.with_(lr=3e-4))  # one as well

    params   groups, each with a rule: a class, what its `with_` returns, or a name. What `with_` was given are values
             of the group, which afterwards has the name alone: `param_groups[0]["rule"]` is "muon"
    options  as every optimizer takes them, for all rules, but for `groups` and `state`

    TypeError or ValueError names a group without a rule, a rule that there is not, and the argument or option that is
    wrong.

    A step that one rule leaves out, because a gradient is not finite, say, all of them leave out, and if one of them
    raises, none has moved. Groups of one rule may differ in its equations (`maximize`, `amsgrad`, `nesterov`, …) if it
    keeps no numbers of all tensors. `report` tells of the last step; its lr is that of the first group.
    """

    def __init__(self, params: Iterable[dict[str, Any]], **options: Any) -> None:
        self._parts: dict[Any, Optimizer] = {}
        self.options = self._checked_options(options)
        self._forget()
        groups = [params] if isinstance(params, dict) or not isinstance(params, Iterable) else list(params)
        if not all(isinstance(group, dict) and RULE in group for group in groups):
            _place("params").fail(TypeError, 'groups {"params": tensors, "rule": …}', type(params).__name__)
        torch.optim.Optimizer.__init__(self, groups, {})
        self.state = States(self.state, shown=False)

    def _checked_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        for name, value in options.items():
            if name not in Options.__annotations__:
                _place(name).unknown(TypeError, "option", Options.__annotations__)
            if name in ("groups", "state") and value is not None:
                _place(name).fail(ValueError, "None (groups are params here)", repr(value))
        Settings("partition", **options)
        return dict(options)

    def _forget(self) -> None:
        self.report: Report | None = None
        self._loading = None
        self._run, self._again, self.arrivals = None, None, None
        self._seen: list[Any] = []  # the groups that parts were made of
        for part in self._parts.values():
            part._forget()

    def rule_of(self, group: Mapping[str, Any]) -> Rule:
        """The rule of a group's parameters."""
        name = str(group.get(RULE))
        if name not in _classes():
            _place(RULE).fail(ValueError, f"one of {', '.join(_classes())}", repr(name))
        return _classes()[name].rule

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; the group says its rule, whose arguments it may hold. What it does not hold is as by default."""
        kind, values = _recipe(param_group.get(RULE))
        known = {*signature(_classes()[kind]).parameters, *SHARED} - {"params", "options", "others"}
        for name in values.keys() - known:
            Place(kind, name).unknown(TypeError, "argument of a rule in a partition", sorted(known))
        mine = [group for group in self.param_groups if group[RULE] == kind]
        part = self._part((kind,), mine)
        param_group.update({**values, **param_group, RULE: kind})
        part.complete(param_group, mine)
        torch.optim.Optimizer.add_param_group(self, param_group)

    def _part(self, key: tuple[Any, ...], groups: list[dict[str, Any]]) -> Optimizer:
        """What steps groups of one rule, whose name the key begins with."""
        part = self._parts.get(key)
        if part is None:
            cls = _classes()[key[0]]
            part = cls.__new__(cls)
            given = {p.name: p.default for p in signature(cls).parameters.values() if p.default is not Parameter.empty}
            given.pop("others", None)
            given |= {name: value for name, value in self.options.items() if name in given}  # `maximize`
            part.options = self.options
            part.__setstate__({"defaults": part.all_defaults(given), "state": {}, "param_groups": groups})
            self._parts[key] = part
        return part

    def _key_of(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        """What groups that step together have alike: the rule and, if they need not all do so, the equations."""
        rule = self.rule_of(group)
        values = {} if rule.states_of("list") else equations_of(rule, checked(rule, group))
        return (rule.name, *values.values())

    def parts(self) -> dict[Any, Optimizer]:
        """What steps groups that have the same equations, as groups and state are now."""
        if type(self.state) is not States:
            self.state = States(self.state)
        if not same_objects(self.param_groups, self._seen):
            shares: dict[Any, list[dict[str, Any]]] = {}
            for group in self.param_groups:
                shares.setdefault(self._key_of(group), []).append(group)
            self._parts = {key: self._part(key, groups) for key, groups in shares.items()}
            for key, part in self._parts.items():
                part.param_groups = shares[key]
            self._seen = list(self.param_groups)
        for part in self._parts.values():
            part.state = self.state
        return self._parts

    # -- the step -----------------------------------------------------------------------------------------------------

    def _check_mode(self) -> None:
        if not all(group.get(TRAIN_MODE, True) for group in self.param_groups):
            for part in self.parts().values():
                check_mode(part)

    def _step(self, loss_scale: float) -> None:
        parts, first = self.parts().values(), not self.state
        if all(part.is_dry(first) for part in parts):
            for part in parts:
                part.make_states()
            return
        moving = [part for part in parts if not part.is_dry(first=False)]
        try:
            self._take_all([part.run_now for part in moving], loss_scale)
        except NoGradientError:  # fewer parameters have one than in the step before
            self._take_all([part.choose for part in moving], loss_scale)
        except EquationsError:  # somebody has set a flag in some of the groups
            self._seen = []
            self._take_all([part.choose for part in self.parts().values()], loss_scale)

    _uncompiled_step = torch._disable_dynamo(_step)  # type: ignore[attr-defined, arg-type]

    def _take_all(self, ways: list[Callable[[], Run | None]], loss_scale: float) -> None:
        runs: list[Run] = []
        try:
            for way in ways:
                run = way()
                runs += [] if run is None else [run]
            if runs:
                self.report = _together(runs, loss_scale)
        except BaseException as error:
            for run in runs:
                run.give_up(error)
            raise

    def eval(self) -> None:
        """Makes the parameters those to judge a model by, of rules that train them at others."""
        for part in self.parts().values():
            turn(part, train_mode=False)

    def train(self) -> None:
        """Makes the parameters those to train at, again."""
        for part in self.parts().values():
            turn(part, train_mode=True)

    # -- saving and resuming ------------------------------------------------------------------------------------------

    def _show_counts(self) -> None:
        for part in self._parts.values():
            part._show_counts()

    def check_saved(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """ValueError unless each saved group has the rule of the one that takes it: so it goes on by its own states."""
        for k, (saved, own) in enumerate(zip(groups, self.param_groups, strict=False)):  # torch says if there are fewer
            if saved.get(RULE) != own[RULE]:
                place = _place(f"state_dict['param_groups'][{k}][{RULE!r}]")
                received = repr(saved[RULE]) if RULE in saved else "none"
                place.fail(ValueError, f"{own[RULE]!r}, as this optimizer's group has", received)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._parts = vars(self).get("_parts", {})
        self.options = state.get("options", vars(self).get("options", {}))
        super().__setstate__(state)

    def _complete_all(self) -> None:
        for group in self.param_groups:
            self._part((self.rule_of(group).name,), []).complete(group, ())


def _together(runs: list[Run], loss_scale: float) -> Report:
    """One step of several rules: all gradients are checked before anything moves, and decide together."""
    steppers = [run.stepper for run in runs]

    def step() -> Report:
        for stepper in steppers:
            stepper.derive()
        try:
            steps = [WholeStep(stepper, None, loss_scale, None, None) for stepper in steppers]
            outcome, watched = take(steps)
            tables = [statistics for statistics in watched if statistics is not None]
            return steps[0].report(outcome, Joined(*tables) if tables else None)
        finally:
            for stepper in steppers:
                stepper.let_go()

    try:
        for run in runs:
            run.prepare()
        report = _exclusively(steppers, step)
    finally:
        for run in runs:
            run.let_go()
    if not report.skipped:
        for run in runs:
            run.count()
    return report


def _exclusively(steppers: list[Stepper], work: Callable[[], T]) -> T:
    """What work() returns, no other call running on any of the steppers."""
    if not steppers:
        return work()
    with steppers[0].exclusive(records.MOST_UNDECIDED):
        return _exclusively(steppers[1:], work)


def divided(optimizer: type[Optimizer], others: Any, params: Any, arguments: Mapping[str, Any]) -> Partition:
    """An optimizer of matrices, and another rule for what is none, or has been chosen: the argument `others`.

    others: a rule, or (pattern, rule)
    """
    pattern, recipe = others if isinstance(others, tuple) and len(others) == 2 else (None, others)
    place = Place(optimizer.rule.name, "params")
    check_params(place, params)
    groups = list(params)
    if not groups or not isinstance(groups[0], dict):
        groups = [{"params": groups}]
    groups = [{**group, "params": _listed(place, group["params"])} for group in groups]
    given = dict(_named(groups))
    chosen = set() if pattern is None else Finder(given)(Place(optimizer.rule.name, "others"), pattern)
    apart = {id(p) for name, p in given.items() if p.dim() != 2 or name in chosen}
    options = {name: value for name, value in arguments.items() if name in Options.__annotations__}
    kinds = partial(optimizer, **{name: value for name, value in arguments.items() if name not in options}), recipe
    found = []
    for kind, belongs in zip(kinds, (False, True), strict=True):
        for group in groups:
            own = [p for p in group["params"] if (id(p[1] if isinstance(p, tuple) else p) in apart) == belongs]
            found += [{**group, "params": own, RULE: kind}] if own else []
    return Partition(found, **options)


def _listed(place: Place, params: Any) -> list[Any]:
    check_params(place, params)
    return [params] if isinstance(params, torch.Tensor) else list(params)


def _named(groups: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The parameters by their names, or by where they are."""
    for k, group in enumerate(groups):
        for i, p in enumerate(group["params"]):
            yield p if isinstance(p, tuple) else (f"{k}.{i}" if len(groups) > 1 else str(i), p)


def _recipe(rule: Any) -> tuple[str, dict[str, Any]]:
    """The name of a rule, and what its `with_` was given."""
    kind, values = (rule.func, rule.keywords) if isinstance(rule, partial) and not rule.args else (rule, {})
    name = str(kind if isinstance(kind, str) else getattr(getattr(kind, "rule", None), "name", None))
    if name not in _classes():
        expected = "an optimizer class, what its with_(…) returns, or the name of a rule"
        _place(RULE).fail(TypeError, expected, repr(rule))
    return name, dict(values)


def _classes() -> Mapping[str, type[Optimizer]]:
    """The classes of all rules by name; they know of partitions, so that they are asked for late."""
    from fastupdate.torch.classes import BY_NAME

    return BY_NAME


def _place(argument: str) -> Place:
    return Place("partition", argument)
