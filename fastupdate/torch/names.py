"""What torch calls things: the names under which `torch.optim` keeps the states of the rules that it has."""

from __future__ import annotations

from collections.abc import Mapping

from fastupdate.rules.rule import Rule

_ADAM = {"m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"}

STATES: Mapping[str, Mapping[str, str]] = {
    "adadelta": {"v": "square_avg", "u": "acc_delta"},
    "adagrad": {},  # under the same names
    "adam": _ADAM,
    "adamax": {"m": "exp_avg", "u": "exp_inf"},
    "adamw": _ADAM,
    "adafactor": {},  # float64 numbers for rows and columns: another state than torch's
    "muon": {"m": "momentum_buffer"},
    "radam": _ADAM,
    "rprop": {},  # under the same names
    "rmsprop": {"v": "square_avg", "g_mean": "grad_avg", "b": "momentum_buffer"},
    "sgd": {"b": "momentum_buffer"},
}
UNCOUNTED = {"sgd", "muon"}  # torch keeps no step count of these: all that counts is whether there is a state

STEP = "step"


def state_names(rule: Rule) -> dict[str, str]:
    """The rule's states, in its order, each with the name that it has in `optimizer.state[p]`."""
    known = STATES.get(rule.name, {})
    return {name: known.get(name, name) for name in rule.states}
