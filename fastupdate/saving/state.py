"""An optimizer → a plain dict.

The dict (arrays, numbers and names only):

    version                       of this layout
    rule, flags                   what made it; must agree with the optimizer that it is loaded into
    step, micro_batches, weight   steps taken, micro-batches accumulated since, what they weigh together
    skips, outliers               steps skipped in a row; the norms and losses of late, {} without the option `outliers`
    evaluating                    true, or not there: `Optimizer.eval` has been called
    limits                        what clips norms, if it is a schedule: its name → {"schedule": its state}
    tensors                       name → {"step": its own count, "frozen_until": step count, infinite if frozen by hand}
    groups                        hyperparameters by group; a schedule is {"schedule": its state}, {} if it has none
    arrays                        "state.m.<name>", "slow.<name>", "ema.<name>", "shadow.<name>", "accumulator.<name>",
                                  and in files "param.<name>"

Versions 1 and 2 have no weight, skips, outliers and limits; and what hyperparameters came later, they lack.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Set
from dataclasses import fields
from typing import Any

import numpy as np

from fastupdate.arrays.memory import Array
from fastupdate.engines.records import MICRO_BATCHES, STEPS
from fastupdate.step.stepper import Stepper
from fastupdate.step.tensors import ACCUMULATOR, Item, sources

VERSION = 3
Arrays = dict[tuple[str, str], Array]  # by kind and name


def snapshot(stepper: Stepper, *, params: bool) -> dict[str, Any]:
    """The state of an optimizer; nothing but its arrays is live."""
    stepper.plan.keep_times()
    step, micro_batches = (int(stepper.clock[k]) for k in (STEPS, MICRO_BATCHES))
    accumulating = [item for item in stepper.items if micro_batches and not item.frozen and not item.resting]
    skips, limits = stepper.skips, {name: getattr(stepper.settings, name) for name in stepper.settings.scheduled}
    arrays = arrays_of(stepper.items, {item.name for item in accumulating}, params=params)
    return {
        "version": VERSION,
        "rule": stepper.rule.name,
        "flags": dict(stepper.flags),
        "step": step,
        "micro_batches": micro_batches,
        "weight": stepper.micro_batches.weight,
        "skips": skips.count,
        "outliers": skips.outliers.state_dict() if skips.outliers else {},
        "limits": {name: _plain(limit) for name, limit in limits.items()},
        "tensors": {item.name: {"step": item.t, "frozen_until": item.frozen_until} for item in stepper.items},
        "groups": [{key: _plain(value) for key, value in group.items()} for group in stepper.hypers.groups],
        "arrays": {f"{kind}.{name}": array for (kind, name), array in arrays.items()},
        **({"evaluating": True} if stepper.evaluating else {}),
    }


def ingredients(stepper: Stepper) -> dict[str, Any]:
    """What makes an optimizer like this one, but for its state: the arguments of `Optimizer`."""
    options = {field.name: getattr(stepper.settings, field.name) for field in fields(stepper.settings)}
    del options["rule"], options["state"]
    by_name = sources(stepper.items)
    options["groups"] = [
        {**group, "params": [by_name[name] for name in group["params"]]} for group in stepper.hypers.groups
    ]
    return {"params": stepper.tree, "flags": dict(stepper.flags), **options}


def copied(stepper: Stepper) -> dict[str, Any]:
    """The state without the parameters, as copies in host memory: torch tensors for tensors that torch has."""
    state = snapshot(stepper, params=False)
    torch = {item.name for item in stepper.items if item.is_torch}
    arrays = {}
    for key, array in state.pop("arrays").items():
        kind, name = split(key)
        own = array.copy()
        arrays[key] = _as_torch(own, bits=kind == "shadow") if name in torch else own
    return {**state, "arrays": arrays}


def _as_torch(array: Array, *, bits: bool) -> Any:
    """The same memory as a torch tensor; `bits`: uint16 is bfloat16."""
    torch = sys.modules["torch"]
    if bits and array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def split(key: str) -> tuple[str, str]:
    """The kind of an array, which has a dot after "state", and the name of its tensor."""
    kind, _, name = key.partition(".")
    if kind == "state":
        own, _, name = name.partition(".")
        kind = f"state.{own}"
    return kind, name


def arrays_of(items: list[Item], accumulating: Set[str], *, params: bool) -> Arrays:
    """All arrays of an optimizer that a state holds.

    accumulating  the tensors whose accumulators are among them
    params        the parameters too
    """
    found: Arrays = {}
    for item in items:
        kinds = {**item.slots, "param": item.array} if params else item.slots
        left_out = set() if item.name in accumulating else {ACCUMULATOR}
        found |= {(kind, item.name): array for kind, array in kinds.items() if kind not in left_out}
    return found


def _plain(value: Any) -> Any:
    if not callable(value):
        return copy.copy(value)  # a list of names, or a number
    return {"schedule": copy.deepcopy(value.state_dict()) if has_state(value) else {}}


def has_state(schedule: Any) -> bool:
    """Whether a schedule depends on more than the step, and can say on what."""
    return hasattr(schedule, "state_dict") and hasattr(schedule, "load_state_dict")
