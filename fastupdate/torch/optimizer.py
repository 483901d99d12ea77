"""The contract of torch.optim.Optimizer: groups, state, hooks, closures, saving. `run.py` takes the steps."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from fastupdate.arrays.place import Place
from fastupdate.optimizers import arguments
from fastupdate.rules.rule import Rule
from fastupdate.step.gradients import NoGradientError
from fastupdate.step.hypers import SHARED
from fastupdate.step.options import Settings, check_names
from fastupdate.step.report import Report
from fastupdate.torch.factors import Cuts, owners_of
from fastupdate.torch.inputs import check_params
from fastupdate.torch.listed import at_start, check_there
from fastupdate.torch.modes import TRAIN_MODE, check_mode, turn
from fastupdate.torch.names import INTEGERS, NUMBERS, STEP, check_entries
from fastupdate.torch.numbers import DECOUPLED, check_options, check_own, checked, decay_of, is_zero, keys_of
from fastupdate.torch.packages import as_theirs, from_theirs
from fastupdate.torch.run import GLOBAL_HOOKS, Again, Run, choose
from fastupdate.torch.shards import has_nonzero
from fastupdate.torch.states import States, plain

if TYPE_CHECKING:
    from fastupdate.torch.agreement import Agreement
    from fastupdate.torch.backward import Arrivals
    from fastupdate.torch.meeting import Meeting

NOT_HERE = {"groups": "parameter groups, as torch has them", "state": "load_state_dict"}


class Optimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer`: schedulers, hooks, closures, GradScaler and checkpoints work as with torch's own.

    maximize climbs; foreach and fused are taken and change nothing; capturable and differentiable must be False. Each
    argument, and lr_scale, l1, clip_value, optimism, optimism_norm, peak_lr and ema_decay, can differ between parameter
    groups; a step reads them there. Options that a group does not hold are in `options`; groups and state are torch's
    own. `report` tells of the last step. State is kept in `state[p]` under torch's names, averages and copies as "ema",
    "slow" and "shadow".
    """

    rule: ClassVar[Rule]
    state: States
    _step_supports_amp_scaling = True

    def __init__(self, params: Any, values: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self.options = self._checked_options(options)
        decay_of(self.rule, bool(values.get(DECOUPLED, self.rule.decoupled_decay)), options.get("decay"))
        self._forget()
        check_params(Place(self.rule.name, "params"), params)
        super().__init__(params, self.all_defaults(values))
        self.state = States(self.state, shown=False)

    def all_defaults(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a group holds that says nothing else: the rule's arguments, and options that groups may have."""
        shared = {name: self.options[name] for name in SHARED if self.options.get(name) is not None}
        mode = {} if self.rule.evaluated is None else {TRAIN_MODE: True}
        return {**values, **shared, **mode}

    def rule_of(self, group: Mapping[str, Any]) -> Rule:
        """The rule of a group's parameters."""
        return self.rule

    def _checked_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        check_names(type(self), options)
        for name, instead in NOT_HERE.items():
            if options.get(name) is not None:
                Place(self.rule.name, name).fail(ValueError, f"{instead}, and None here", repr(options[name]))
        Settings(self.rule.name, **options)
        return dict(options)

    def _forget(self) -> None:
        """Forgets how the last steps were taken; what is kept is in groups and state."""
        self.report: Report | None = None
        self._listed = bool(self.rule.states_of("list"))
        self._loading: Mapping[str, Any] | None = None  # what load_state_dict was given
        self._run: Run | None = None
        self._again: Again | None = None  # takes a step like the last one, as most are
        self._runs: dict[Any, Run] = {}
        self.met: Meeting | None = None  # of the last step on ranks that share parameters
        self.agreement: Agreement | None = None  # of these ranks
        self.arrivals: Arrivals | None = vars(self).get("arrivals")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Moves each parameter that has a gradient; returns what the closure returns.

        closure: evaluates the model again and returns the loss
        """
        if self._again is not None and closure is None and not torch.compiler.is_compiling():
            report = self._again(self)
            if report is not None:
                self.report = report
                return None
        if self._hooked():
            return self._hooked_step() if closure is None else self._hooked_step(closure)
        return self._plain_step(closure)

    step.hooked = True  # type: ignore[attr-defined] # so that torch does not wrap it, which costs more than the step

    def _hooked(self) -> bool:
        """Whether a hook or a profiler is to be told of a step. Of a subclass's own `step` torch tells them."""
        own = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        asked = own or any(GLOBAL_HOOKS) or torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
        return bool(asked) and type(self).step is Optimizer.step

    def _plain_step(self, closure: Callable[[], Any] | None = None) -> Any:
        self._check_mode()
        self._again, loss = None, None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        if found_inf is None or not found_inf.item():
            take = self._uncompiled_step if torch.compiler.is_compiling() else self._step
            take(1.0 if scale is None else float(scale))
        if self.arrivals is not None:
            self.arrivals.free()
        return loss

    _hooked_step = torch.optim.Optimizer.profile_hook_step(_plain_step)

    def _check_mode(self) -> None:
        if self.rule.evaluated is not None:
            check_mode(self)

    def _step(self, loss_scale: float) -> None:
        if (self._listed or not self.state) and self.is_dry(not self.state):
            self.make_states()
            return
        try:
            self._take(self.run_now(), loss_scale)
        except NoGradientError:  # fewer parameters have one than in the step before
            self._take(self.choose(), loss_scale)

    def _take(self, run: Run | None, loss_scale: float) -> None:
        if run is None:
            return
        totals = None if self.arrivals is None else self.arrivals.totals(run.params)
        self.report = run.step(loss_scale, totals)
        self._again = run.again() if run is self._run and not self.report.skipped else None

    def run_now(self) -> Run | None:
        """The run for the parameters that have gradients now; None if none has."""
        run = self._run
        if run is None or type(self.state) is not States or not run.holds(self):
            run = self.choose()
        return run

    def make_states(self) -> None:
        """Makes the states of the parameters that have gradients, and takes no step."""
        run = self.choose()
        if run is not None:
            run.keep_states()

    def is_dry(self, first: bool) -> bool:
        """Whether a step has no other purpose than that states be there: the first one, with lr and gradients of zero.
        So torch.distributed.checkpoint looks for what it is to load. Where tensors have numbers in common, every step
        with lr of zero is one, as in the packages of their authors: it would spoil the estimates."""
        if not (first or self._listed) or not all(is_zero(group["lr"]) for group in self.param_groups):
            return False
        grads = (p.grad for group in self.param_groups for p in group["params"] if p.grad is not None)
        return self._listed or not any(map(has_nonzero, grads))

    _uncompiled_step = torch._disable_dynamo(_step)  # type: ignore[attr-defined]

    def choose(self) -> Run | None:
        """The same, looked for anew."""
        if type(self.state) is not States:
            self.state = States(self.state)
        self._run = choose(self, self._runs, self._run)
        return self._run

    def eval(self) -> None:
        """Makes the parameters those to judge a model by, if the rule trains it at others (the schedule-free ones).

        Until `train` is called, steps raise ValueError. With other rules, and if it has been called, nothing changes.
        """
        turn(self, train_mode=False)

    def train(self) -> None:
        """Makes the parameters those to train at, again."""
        turn(self, train_mode=True)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's, after a check of the group's values."""
        if isinstance(param_group, dict):
            self.complete(param_group, self.param_groups)
        super().add_param_group(param_group)

    def complete(self, group: dict[str, Any], groups: Sequence[Mapping[str, Any]]) -> None:
        """Gives a group that joins others what it does not say, after a check of what it does."""
        check_own(self.rule, group)
        check_params(Place(self.rule.name, "params"), group.get("params", ()))
        values = {**self.defaults, **group}
        check_options(self.rule, checked(self.rule, {**values, "params": ()}), self.options)
        group.update({**at_start(self.rule, values, groups), **values})

    # -- saving and resuming ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As torch's, and interchangeable with that of the class of the same name in torch.optim."""
        self._show_counts()
        found: dict[str, Any] = super().state_dict()
        if "state" in found:
            found["state"] = {key: plain(value) for key, value in found["state"].items()}
            self._share_out_factors(found)
            for group in found["param_groups"]:
                entries = [found["state"][key] for key in group["params"] if key in found["state"]]
                _add_numbers(self.rule_of(group), group, [entry for entry in entries if STEP in entry])
                as_theirs(self.rule_of(group), group, entries)
        return found

    def _share_out_factors(self, found: dict[str, Any]) -> None:
        """Of factors of matrices that ranks share each rank saves a part: a message of the rank that has them."""
        cuts = Cuts()
        for saved, group in zip(found["param_groups"], self.param_groups, strict=True):
            rule = self.rule_of(group)
            owners = owners_of(g for g in self.param_groups if self.rule_of(g) is rule) if rule.factors else {}
            for key, p in zip(saved["params"], group["params"], strict=True):
                if id(p) in owners and key in found["state"]:
                    found["state"][key] = cuts.shared_out(rule, found["state"][key], p, owners[id(p)])

    def _show_counts(self) -> None:
        if self._run is not None:
            self._run.show_counts()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; but tensors are copied, and keep their dtypes."""
        hook = self.register_load_state_dict_pre_hook(_remember)
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
            self._loading = None

    def check_saved(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """ValueError for saved groups that are not for those here."""

    def _copied(self, state_dict: Mapping[str, Any]) -> dict[Any, Any]:
        """The state that was saved by the parameters here, in tensors of its own."""
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        params = dict(zip(saved, [p for group in self.param_groups for p in group["params"]], strict=True))
        left_out = {
            key: NUMBERS.get(self.rule_of(group).name, {})
            for group in state_dict["param_groups"]
            for key in group["params"]
        }
        return {params.get(key, key): _copy(v, left_out.get(key, ())) for key, v in state_dict["state"].items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._complete_all()
        loaded = vars(self).get("_loading")
        self.state = States(self.state) if loaded is None else States(self._copied(loaded), shown=False)
        self._forget()

    def _complete_all(self) -> None:
        for group in self.param_groups:
            values = {**arguments(self.rule), **self.defaults, **group}
            group.update({**at_start(self.rule, values, ()), **values})


def _add_numbers(rule: Rule, group: Mapping[str, Any], entries: list[dict[str, Any]]) -> None:
    """Writes the numbers that torch keeps with each parameter, as it has them."""
    for entry in entries:
        for name, number in NUMBERS.get(rule.name, {}).items():
            entry[name] = torch.tensor(number(group, float(entry[STEP])), dtype=entry[STEP].dtype, device="cpu")
        if rule.name in INTEGERS:
            entry[STEP] = int(entry[STEP])


def _remember(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Notes what is being loaded, other hooks having had their say: torch's loading casts it to other dtypes."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.check_saved(state_dict["param_groups"])
    loading = from_theirs(optimizer.rule_of, state_dict, params)
    for k, group in enumerate(loading["param_groups"]):
        rule = optimizer.rule_of(group)
        entries = (((key,), loading["state"].get(key)) for key in group["params"])
        there = [(path, entry) for path, entry in entries if isinstance(entry, dict)]
        check_entries(rule, there, "state_dict['state']")
        if there:
            check_there(rule, group, f"state_dict['param_groups'][{k}]")
    pairs = zip(loading["param_groups"], optimizer.param_groups, strict=False)  # torch says if there are more or fewer
    for group, own in pairs:  # what was not saved, by torch's own class or by an earlier version, stays as it is here
        group.update({key: own[key] for key in keys_of(optimizer.rule_of(own), own) if key not in group})
    vars(optimizer)["_loading"] = loading
    return loading


def _copy(value: Any, left_out: Container[str] = ()) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone().cpu()
    if isinstance(value, dict):
        return {key: _copy(part) for key, part in value.items() if key not in left_out}
    return value
