"""Ranks of which one has something else, or something wrong: run by tests/test_mpi.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from mpi_ranks import Check, Ranks
from mpi_steps import same, same_states

import fastupdate as fu

SHAPES = {"w": (30, 70), "b": (5,)}


def arrays(value: float, dtype: Any = np.float32) -> dict[str, Any]:
    """Other numbers everywhere, and with each value."""
    made = {name: np.arange(np.prod(shape), dtype=dtype).reshape(shape) for name, shape in SHAPES.items()}
    return {name: (value + array % 7) / dtype(16) for name, array in made.items()}


def odd(ranks: Ranks) -> bool:
    """Whether this is the rank that has something else."""
    return ranks.rank == ranks.count - 1


# What one rank does otherwise when it makes its optimizer, and the argument that all are told of.
CONSTRUCTION: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "rule": (fu.sharded.Lion, {}, "rule"),
    "option": (fu.sharded.AdamW, {"clip_norm": 1.0}, "clip_norm"),
    "pieces": (fu.sharded.AdamW, {"pieces": 8}, "pieces"),
    "flag": (fu.sharded.AdamW, {"amsgrad": True}, "amsgrad"),
    "hyper": (fu.sharded.AdamW, {"lr": 0.5}, "groups[0]['lr']"),
    "group": (fu.sharded.AdamW, {"groups": [{"params": "b", "lr": 1.0}]}, "groups[0]['params']"),
    "error": (fu.sharded.AdamW, {"lr": -1.0}, "lr"),
}


def check_construction(name: str, ranks: Ranks) -> None:
    """All ranks raise, and name what differs."""
    if ranks.count == 1:
        return
    cls, options, argument = CONSTRUCTION[name]
    make = cls if odd(ranks) else fu.sharded.AdamW
    with pytest.raises(ValueError, match=re.escape(argument)):
        make(arrays(1.0), ranks.comm, **(options if odd(ranks) else {}))


def other_shape(params: dict[str, Any]) -> None:
    params["b"] = np.zeros(6, np.float32)


def other_dtype(params: dict[str, Any]) -> None:
    params["b"] = params["b"].astype(np.float64)


def other_list(params: dict[str, Any]) -> None:
    params["c"] = params.pop("b")


def other_values(params: dict[str, Any]) -> None:
    params["b"][1] += 1


PARAMS = {other_shape: "params['b']", other_dtype: "params['b']", other_list: "params['b']", other_values: "the values"}


def check_params(change: Any, ranks: Ranks) -> None:
    """Likewise for parameters."""
    if ranks.count == 1:
        return
    params = arrays(1.0)
    if odd(ranks):
        change(params)
    words = rf"{re.escape(PARAMS[change])}.*: expected the same on all ranks, .* on rank {ranks.count - 1}$"
    with pytest.raises(ValueError, match=words):
        fu.sharded.AdamW(params, ranks.comm)


def no_gradient(opt: Any, grads: dict[str, Any]) -> None:
    grads["b"] = None


def other_type(opt: Any, grads: dict[str, Any]) -> None:
    grads["b"] = grads["b"].astype(np.float64)


def a_parameter(opt: Any, grads: dict[str, Any]) -> None:
    grads["w"] = opt.params["w"]


def other_step(opt: Any, grads: dict[str, Any]) -> None:
    opt.start_at(7)


def other_rate(opt: Any, grads: dict[str, Any]) -> None:
    opt.lr = 0.5


# What one rank does before a step, how that is undone, with which option, and what all are told of.
STEPS: list[tuple[Any, Any, dict[str, Any], str]] = [
    (no_gradient, None, {}, "grads['b']"),
    (no_gradient, None, {"missing": "skip"}, "grads['b']"),
    (other_type, None, {}, "grads['b']"),
    (a_parameter, None, {}, "grads['w']"),
    (other_step, lambda opt: opt.start_at(2), {}, "step"),
    (other_rate, lambda opt: setattr(opt, "lr", 0.25), {}, "groups[0]['lr']"),
]


def check_step(row: int, ranks: Ranks) -> None:
    """All ranks raise, nothing has changed, and the next good step is that of one process."""
    if ranks.count == 1:
        return
    change, undo, options, argument = STEPS[row]
    params, expected = arrays(1.0), arrays(1.0)
    shared = fu.sharded.AdamW(params, ranks.comm, lr=0.25, **options)
    whole = fu.AdamW(expected, lr=0.25, **options)
    for k in range(3):
        grads = arrays(0.5 + k if ranks.rank == 0 else 0.0)  # others have zeros of no effect on sums
        grads = grads if ranks.rank == 0 else {name: 0 * g for name, g in grads.items()}
        if k == 1:
            before = {name: p.copy() for name, p in params.items()}
            bad = dict(grads)
            if odd(ranks):
                change(shared, bad)
            with pytest.raises((TypeError, ValueError), match=re.escape(argument)):
                shared.step(bad)
            if odd(ranks) and undo:
                undo(shared)
            for name, p in before.items():
                same(params[name], p, name)
        shared.step(grads)
        whole.step(arrays(0.5 + k), loss_scale=ranks.count)
    for name, p in params.items():
        same(p, expected[name], name)
    same_states(shared, whole)


def check_nonfinite(policy: str, ranks: Ranks) -> None:
    """A NaN on one rank is a skip, or an error, on all, wherever the parameter is moved."""
    params = arrays(1.0)
    opt = fu.sharded.AdamW(params, ranks.comm, nonfinite=policy)
    for name in SHAPES:
        grads = arrays(0.5)
        if odd(ranks):
            grads[name].reshape(-1)[-1] = np.nan
        if policy == "skip":
            report = opt.step(grads)
            assert (report.skipped, report.nonfinite, opt.step_count) == (True, 1, 0)
        else:
            with pytest.raises(FloatingPointError, match=re.escape(f"grads['{name}']")):
                opt.step(grads)
    for name, p in arrays(1.0).items():
        same(params[name], p, name)


def check_refusals(ranks: Ranks) -> None:
    """What ranks cannot share is named by all of them."""
    fortran = {"w": np.asfortranarray(arrays(1.0)["w"])}
    for cls, params, options, words in [
        (fu.sharded.Prodigy, arrays(1.0), {"backend": "numba"}, "[prodigy] backend: expected 'native'"),
        (fu.sharded.AdamW, arrays(1.0), {"monitor": True, "backend": "numba"}, "[adamw] backend: expected 'native'"),
        (fu.sharded.AdamW, fortran, {}, "[adamw] params['w']: expected an array in C order"),
        (fu.sharded.AdamW, arrays(1.0), {"pieces": ranks.count - 1 or -1}, "[adamw] pieces: expected"),
        (fu.sharded.AdamW, arrays(1.0), {"state": {}}, "[adamw] state: expected None"),
    ]:
        with pytest.raises((TypeError, ValueError), match=re.escape(words)):
            cls(params, ranks.comm, **options)
    with pytest.raises(TypeError, match=re.escape("[adamw] comm: expected a communicator of mpi4py's")):
        fu.sharded.AdamW(arrays(1.0), None)
    opt = fu.sharded.AdamW(arrays(1.0), ranks.comm, pieces=2 * ranks.count)
    opt.accumulate(arrays(0.5))
    with pytest.raises(ValueError, match=re.escape("[adamw] grads: expected those of pieces")):
        opt.step()
    opt.accumulate(arrays(0.5))
    with pytest.raises(ValueError, match=re.escape("[adamw] state_dict: expected no accumulated pieces")):
        opt.state_dict()
    with pytest.raises(ValueError, match=re.escape("[adamw] grads: expected 2 pieces on this rank")):
        opt.accumulate(arrays(0.5))
    opt.step()
    for shown in ("parts", "reduced"):
        with pytest.raises(TypeError, match=re.escape(f"[adamw] {shown}: expected arrays written in place")):
            getattr(opt, shown)["w"] = np.zeros(3, np.float32)


def checks() -> Iterator[Check]:
    for name in CONSTRUCTION:
        yield f"construction with another {name}", partial(check_construction, name)
    for change in PARAMS:
        yield f"{change.__name__} of parameters", partial(check_params, change)
    for row, (change, _, options, _) in enumerate(STEPS):
        yield f"{change.__name__} on one rank {options}", partial(check_step, row)
    for policy in ("skip", "raise"):
        yield f"NaN: {policy}", partial(check_nonfinite, policy)
    yield "refusals", check_refusals
