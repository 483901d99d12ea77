"""csrc/core/derive.h for the engines in Python: from what the user set to what a step needs, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastupdate.engines.records import Given, Records
from fastupdate.stages import AT_TIMES, FLAGS, HYPERS, Inputs, numbers, working

SHARED = ["lr_scale", *HYPERS]  # columns after the rule's own


def look_up(given: Given, taken: int) -> bool:
    """Writes scheduled values of a step into the rows; False if a schedule has none yet."""
    if not len(given.links):
        return True
    at = taken - given.schedules["first"]
    if (at < 0).any() or (at >= given.schedules["count"]).any():
        return False
    values = given.tables[np.arange(len(at)), at]
    given.values[given.links["row"], given.links["column"]] = values[given.links["schedule"]]
    return True


def scaled_lr(recipe: Records, rows: np.ndarray) -> np.ndarray:
    """The learning rates of rows of what is given."""
    lrs: np.ndarray = rows[:, recipe["lr"]] * rows[:, recipe["hypers"] + SHARED.index("lr_scale")]
    return lrs


def holds_numbers(recipe: Records, given: Given) -> bool:
    """Whether the type that the step computes in turns no number into infinity and no ε into 0."""
    n, largest, values = int(recipe["hypers"]), float(recipe["largest"]), given.values
    shared = {name: values[:, n + k] for k, name in enumerate(SHARED)}
    lr, l1 = scaled_lr(recipe, values), shared["l1"]
    own = values[:, [k for k in range(n) if k != recipe["lr"]]]
    own = own[own < np.inf]  # where a hyperparameter may be infinite, it is so in every type
    eps = values[:, [k for k in range(n) if int(recipe["eps"]) >> k & 1]]
    decay = values[:, recipe["weight_decay"]] if recipe["weight_decay"] >= 0 else 0.0
    low = np.maximum(shared["clip_low"], -shared["clip_value"])
    high = np.minimum(shared["clip_high"], shared["clip_value"])
    if ((low > high) | (low > largest) | (high < -largest)).any():
        return False
    with np.errstate(over="ignore"):
        longest = np.maximum(lr, lr * (lr / shared["peak_lr"]))
        large = max(part.max(initial=0.0) for part in (lr, l1, own, longest * l1, longest * decay))
    return large <= largest and not ((eps > 0) & (eps <= recipe["vanishing"])).any()


def _numbers(recipe: Records, rows: np.ndarray) -> dict[str, Any]:
    """What the stages of rows of what is given work with."""
    n = int(recipe["hypers"])
    flags = {name: int(recipe["flags"]) >> k & 1 for k, name in enumerate(FLAGS)}
    given = {name: rows[:, n + 1 + k] for k, name in enumerate(HYPERS)}
    decay = rows[:, recipe["weight_decay"]] if recipe["outside"] else 0.0
    return numbers(
        Inputs(**flags, **given, lr=scaled_lr(recipe, rows), weight_decay=decay, lookahead=recipe["lookahead_weight"])
    )


def fill(recipe: Records, given: Given, taken: int, groups: Records) -> int:
    """Writes what the tensors of each group share in a step; returns the stages that the step needs: those that any
    group asks for, and those that keep an array."""
    rows, n = given.values[groups["given"]], int(recipe["hypers"])
    groups["hyper"][:, :n] = rows[:, :n]
    groups["hyper"][:, recipe["lr"]] = scaled_lr(recipe, rows)
    if recipe["outside"]:
        groups["hyper"][:, recipe["weight_decay"]] = 0.0
    shared = _numbers(recipe, rows)
    for name, values in shared.items():
        groups[name] = values
    every = int(recipe["lookahead_every"])
    synchronises = every > 0 and (taken + 1) % every == 0
    return (working(shared) | int(recipe["always"])) & ~(0 if synchronises else AT_TIMES)
