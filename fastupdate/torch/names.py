"""What torch calls things: the names under which `torch.optim` keeps the states of the rules that it has.

Those that it has not have the names of their authors' packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastupdate import rules
from fastupdate.rules.rule import Rule
from fastupdate.rules.scalar import warming_product

_ADAM = {"m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"}

STATES: Mapping[str, Mapping[str, str]] = {
    "adadelta": {"v": "square_avg", "u": "acc_delta"},
    "adagrad": {},  # under the same names
    "adam": _ADAM,
    "adamax": {"m": "exp_avg", "u": "exp_inf"},
    "adamw": _ADAM,
    "asgd": {},  # under the same names
    "adafactor": {},  # float64 numbers for rows and columns: another state than torch's
    "dadaptadam": {"m": "exp_avg", "v": "exp_avg_sq", "z": "s"},
    "muon": {"m": "momentum_buffer"},
    "nadam": _ADAM,
    "prodigy": {"m": "exp_avg", "v": "exp_avg_sq", "z": "s"},
    "radam": _ADAM,
    "rprop": {},  # under the same names
    "rmsprop": {"v": "square_avg", "g_mean": "grad_avg", "b": "momentum_buffer"},
    "sgd": {"b": "momentum_buffer"},
    "sparseadam": _ADAM,
}
UNCOUNTED = {"sgd", "muon"}  # torch keeps no step count of these: all that counts is whether there is a state
DECOUPLING = ("adam", "nadam", "radam")  # whose classes in torch take decoupled_weight_decay
INTEGERS = {"sparseadam"}  # torch counts their steps in Python's integers

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


def state_names(rule: Rule) -> dict[str, str]:
    """The rule's states, in its order, each with the name that it has in `optimizer.state[p]`."""
    known = STATES.get(rule.name, {})
    return {name: known.get(name, name) for name in (*rule.states, *rule.factors)}
