"""What torch calls things: the names under which `torch.optim` keeps the states of the rules that it has.

Of those that it has not, some have the names of their authors' packages, the others those that the rule has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from fastupdate import rules
from fastupdate.arrays.place import Place
from fastupdate.arrays.tree import Path
from fastupdate.rules.rule import Rule
from fastupdate.rules.scalar import warming_product

_ADAM = {"m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"}

STATES: Mapping[str, Mapping[str, str]] = {
    "adadelta": {"v": "square_avg", "u": "acc_delta"},
    "adagrad": {},  # under the same names
    "adam": _ADAM,
    "adamax": {"m": "exp_avg", "u": "exp_inf"},
    "adamw": _ADAM,
    "adan": {"previous": "previous_grad"},  # "previous" is what the option `optimism` keeps
    "asgd": {},  # under the same names
    "adafactor": {},  # float64 numbers for rows and columns: another state than torch's
    "dadaptadam": {"m": "exp_avg", "v": "exp_avg_sq", "z": "s"},
    "dadaptsgd": {"p0": "x0"},
    "lion": {"m": "exp_avg"},
    "muon": {"m": "momentum_buffer"},
    "nadam": _ADAM,
    "prodigy": {"m": "exp_avg", "v": "exp_avg_sq", "z": "s"},
    "radam": _ADAM,
    "rprop": {},  # under the same names
    "rmsprop": {"v": "square_avg", "g_mean": "grad_avg", "b": "momentum_buffer"},
    "sgd": {"b": "momentum_buffer"},
    "sparseadam": _ADAM,
}
# torch keeps no step count of these: all that counts is whether there is a state, but under a flag that torch has not.
UNCOUNTED: Mapping[str, str | None] = {"sgd": None, "muon": "corrected"}
DECOUPLING = ("adam", "nadam", "radam")  # whose classes in torch take decoupled_weight_decay
SPACINGS = {"adafactor": "eps1"}  # None, for these, is the spacing of the weights' type
DEFAULTS: Mapping[str, Mapping[str, Any]] = {  # torch's, where the rule has others
    "adafactor": {"eps": (None, 1e-3)},
    "muon": {"nesterov": True},
}
POSITIONAL: Mapping[str, tuple[str, ...]] = {  # what torch's classes take by position; all else is by name
    "adadelta": ("lr", "rho", "eps", "weight_decay", "foreach"),
    "adafactor": ("lr", "beta2_decay", "eps", "d", "weight_decay"),
    "adagrad": ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps", "foreach"),
    "adam": ("lr", "betas", "eps", "weight_decay", "amsgrad"),
    "adamax": ("lr", "betas", "eps", "weight_decay", "foreach"),
    "adamw": ("lr", "betas", "eps", "weight_decay", "amsgrad"),
    "asgd": ("lr", "lambd", "alpha", "t0", "weight_decay", "foreach", "maximize", "differentiable", "capturable"),
    "muon": ("lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn"),
    "nadam": ("lr", "betas", "eps", "weight_decay", "momentum_decay", "decoupled_weight_decay"),
    "radam": ("lr", "betas", "eps", "weight_decay", "decoupled_weight_decay"),
    "rmsprop": (
        *("lr", "alpha", "eps", "weight_decay", "momentum", "centered"),
        *("capturable", "foreach", "maximize", "differentiable"),
    ),
    "rprop": ("lr", "etas", "step_sizes"),
    "sgd": ("lr", "momentum", "dampening", "weight_decay", "nesterov"),
    "sparseadam": ("lr", "betas", "eps", "maximize"),
}
INTEGERS = {"sparseadam"}  # torch counts their steps in Python's integers
SCALE, MATCH_RMS = "adjust_lr_fn", "match_rms_adamw"
_ALONE = (False, "parameters that ranks share are known by their type, DTensor")

# Arguments of torch's and of packages that the rule here has one value of, and why.
FIXED: Mapping[str, Mapping[str, tuple[Any, str]]] = {
    "muon": {
        SCALE: (None, f"or 'original', or '{MATCH_RMS}', which is {MATCH_RMS}=True"),
    },
    "prodigy": {
        "decouple": (True, "weights shrink by d·lr·λ; decay='coupled' is an L2 penalty"),
        "fsdp_in_use": _ALONE,
        "slice_p": (1, "every element takes part"),
    },
    "dadaptadam": {
        "fsdp_in_use": _ALONE,
        "layer_scale": (1.0, "lr is the same for all; d has one meaning"),
        "log_every": (0, "param_groups[0]['d'] can be logged after any step"),
    },
    "dadaptsgd": {
        "fsdp_in_use": _ALONE,
        "log_every": (0, "param_groups[0]['d'] can be logged after any step"),
    },
}

STEP = "step"


def _mu_product(group: Mapping[str, Any], t: float) -> float:
    return warming_product(float(group["betas"][0]), 0.96 ** float(group["momentum_decay"]), t)


def _of_next_step(name: str) -> Callable[[Mapping[str, Any], float], float]:
    """One of the numbers with which ASGD takes the step after these."""

    def number(group: Mapping[str, Any], t: float) -> float:
        asgd = rules.every()["asgd"]
        return float(getattr(asgd.prepare({key: float(group[key]) for key in asgd.hypers}, int(t) + 1), name))

    return number


# Numbers that torch keeps with each parameter, and that follow from a group and the steps taken: they are added to what
# is saved and left out of what is loaded.
NUMBERS: Mapping[str, Mapping[str, Callable[[Mapping[str, Any], float], float]]] = {
    "asgd": {name: _of_next_step(name) for name in ("eta", "mu")},
    "nadam": {"mu_product": _mu_product},
}


def is_counted(rule: Rule, flags: Mapping[str, bool]) -> bool:
    """Whether a rule's steps are counted in the state of each parameter."""
    return rule.name not in UNCOUNTED or counts_by_flag(rule, flags)


def counts_by_flag(rule: Rule, flags: Mapping[str, bool]) -> bool:
    """Whether they are counted for a flag alone, without which a state has no count."""
    flag = UNCOUNTED.get(rule.name)
    return flag is not None and flags[flag]


def state_names(rule: Rule) -> dict[str, str]:
    """The rule's states, in its order, each with the name that it has in `optimizer.state[p]`."""
    known = STATES.get(rule.name, {})
    return {name: known.get(name, name) for name in (*rule.states, *rule.factors)}


def check_entries(rule: Rule, entries: Iterable[tuple[Path, dict[str, Any]]], argument: str) -> None:
    """ValueError if a parameter has moved, but has not the states that it has by this rule: it went by another one."""
    own = state_names(rule)
    lasting = [name for name in rule.states if name not in rule.passing and name not in rule.state_flags]
    needed = [own[name] for name in lasting if rule.extents[name] != "list"]
    for path, entry in entries:  # by dict's own methods: nobody is shown what is in one
        held = [name for name, value in dict.items(entry) if value is not None]
        missing = [name for name in needed if name not in held]
        steps, known = dict.get(entry, STEP), _all_names().intersection(held)
        moved = float(steps) > 0 if steps is not None else bool(known)
        others = not needed and known and steps is not None and known.isdisjoint(own.values())
        if (missing and moved) or others:
            expected = f"the states of {rule.formula.__name__} or none"
            Place(rule.name, argument, path).fail(ValueError, expected, f"one with {', '.join(map(repr, held))}")


@cache
def _all_names() -> frozenset[str]:
    """Those of all rules' states."""
    return frozenset(name for rule in rules.every().values() for name in state_names(rule).values())
