"""csrc/core/derive.h for the engines in Python: from what the user set to what a step needs, in float64."""

from __future__ import annotations

import numpy as np

from fastupdate.engines import records
from fastupdate.engines.records import DECAY_MODES, Given, Records

SHARED = LR_SCALE, L1, CLIP_VALUE, EMA_DECAY = range(4)  # columns after the rule's own


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
    lrs: np.ndarray = rows[:, recipe["lr"]] * rows[:, recipe["hypers"] + LR_SCALE]
    return lrs


def has_states_for(recipe: Records, given: Given) -> bool:
    """Whether every hyperparameter that the plan has no state for is 0."""
    unset = [k for k in range(int(recipe["hypers"])) if int(recipe["unset"]) >> k & 1]
    return not given.values[:, unset].any()


def holds_numbers(recipe: Records, given: Given) -> bool:
    """Whether the type that the step computes in turns no number into infinity and no ε into 0."""
    n, largest = int(recipe["hypers"]), float(recipe["largest"])
    lr, l1 = scaled_lr(recipe, given.values), given.values[:, n + L1]
    own = given.values[:, [k for k in range(n) if k != recipe["lr"]]]
    eps = given.values[:, [k for k in range(n) if int(recipe["eps"]) >> k & 1]]
    decay = given.values[:, recipe["weight_decay"]] if recipe["weight_decay"] >= 0 else 0.0
    with np.errstate(over="ignore"):
        large = max(part.max(initial=0.0) for part in (lr, l1, own, lr * l1, lr * decay))
    return large <= largest and not ((eps > 0) & (eps <= recipe["vanishing"])).any()


def stages(recipe: Records, given: Given, taken: int) -> int:
    """The stages that a step needs: those that any row asks for."""
    own, mode = given.values[:, : recipe["hypers"]], int(recipe["decay_mode"])
    shared = given.values[:, recipe["hypers"] :]
    lasso = bool(shared[:, L1].any())
    decays = mode != DECAY_MODES["own"] and bool(own[:, recipe["weight_decay"]].any())
    coupled, every = mode == DECAY_MODES["coupled"], int(recipe["lookahead_every"])
    wanted = {
        records.CLIP_VALUE: bool((shared[:, CLIP_VALUE] < np.inf).any()),
        records.PENALTY: (decays and coupled) or (lasso and not recipe["proximal"]),
        records.DECAY: decays and not coupled,
        records.SHRINK: lasso and bool(recipe["proximal"]),
        records.LOOKAHEAD: every > 0 and (taken + 1) % every == 0,
    }
    return int(recipe["always"]) | sum(stage for stage, on in wanted.items() if on)


def fill(recipe: Records, given: Given, groups: Records) -> None:
    """Writes what the tensors of each group share in a step."""
    rows, n, mode = given.values[groups["given"]], int(recipe["hypers"]), int(recipe["decay_mode"])
    lr, l1 = scaled_lr(recipe, rows), rows[:, n + L1]
    groups["hyper"][:, :n] = rows[:, :n]
    groups["hyper"][:, recipe["lr"]] = lr
    if mode != DECAY_MODES["own"]:
        decay = rows[:, recipe["weight_decay"]]
        groups["hyper"][:, recipe["weight_decay"]] = 0.0
        groups["l2"] = decay if mode == DECAY_MODES["coupled"] else 0.0
        groups["decay"] = 1.0 - (lr * decay if mode == DECAY_MODES["decoupled"] else decay)
    groups["clip_value"] = rows[:, n + CLIP_VALUE]
    groups["l1"] = 0.0 if recipe["proximal"] else l1
    groups["shrink"] = lr * l1
    groups["ema"] = 1.0 - rows[:, n + EMA_DECAY]
    groups["lookahead"] = recipe["lookahead_weight"]
