"""Runs to be resumed or copied: a network, the options of its optimizers and the calls of each run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import Case, assert_same_bits, exactly, random_arrays

import fastupdate as fu
from fastupdate import groups, schedules

Call = tuple[Any, ...]  # a method of the optimizer and its arguments


def network(seed: int = 0) -> dict[str, Any]:
    """Both dtypes, nesting, strides, a scalar, an empty array."""
    a, b, c, d = random_arrays(seed, [15, 2100, 4, 1], np.float64)
    return {
        "layers": [
            {"w": a.astype(np.float32).reshape(5, 3).T, "b": b.astype(np.float32)},
            {"w": np.repeat(c, 2)[::2], "b": d.reshape(())},
        ],
        "empty": np.zeros((0, 3), np.float32),
    }


def grads(seed: int) -> dict[str, Any]:
    return network(seed + 1)


def step(k: int) -> Call:
    return ("step", grads(k))


def accumulate(k: int) -> Call:
    return ("accumulate", grads(k))


def poisoned(k: int) -> Call:
    tree = grads(k)
    tree["layers"][0]["b"][1500] = np.nan
    return ("step", tree)


def metric(value: float) -> Call:
    return ("metric", value)


def do(opt: fu.Optimizer, call: Call) -> None:
    name, *arguments = call
    if name == "metric":
        opt.groups[0]["lr"].update(*arguments)
    elif name == "set lr":
        opt.groups[0]["lr"] = arguments[0]
    else:
        getattr(opt, name)(*arguments)


# Options (made anew for each optimizer, for `plateau` has a state), and the calls of a run.
SCENARIOS: dict[str, tuple[Callable[[], dict[str, Any]], list[Call]]] = {
    "plain": (dict, [step(0), step(1), step(2)]),
    "everything kept": (
        lambda: {"ema_decay": 0.9, "shadow": "bfloat16", "lookahead": (2, 0.5), "clip_norm": 1.0, "l1": 1e-3},
        [step(0), step(1), step(2)],
    ),
    "float16 copies": (lambda: {"shadow": "float16", "monitor": True}, [step(0), step(1)]),
    "micro-batches": (dict, [accumulate(0), accumulate(1), ("step",), accumulate(2), accumulate(3), ("step",)]),
    "skipped": (lambda: {"nonfinite": "skip"}, [step(0), poisoned(1), step(2)]),
    "schedules": (
        lambda: {"lr": schedules.cosine(0.1, 4), "groups": [{"params": "*.b", "lr": schedules.linear(0.2, 3)}]},
        [step(0), step(1), step(2)],
    ),
    "plateau": (
        lambda: {"lr": schedules.plateau(0.1, factor=0.5, patience=1), "groups": [{"params": "*.b", "lr_scale": 0.5}]},
        [step(0), metric(1.0), metric(2.0), step(1), metric(3.0), step(2), metric(4.0), step(3)],
    ),
    "frozen by hand": (
        dict,
        [step(0), ("freeze", "layers.0.*"), step(1), step(2), ("unfreeze", "layers.0.b"), step(3), step(4)],
    ),
    "thawing by date": (
        lambda: {"groups": groups.gradual_unfreezing(["layers.0.*", "layers.1.*", "empty"], 1), "lookahead": (2, 0.5)},
        [step(0), accumulate(1), accumulate(2), ("step",), step(3), step(4)],
    ),
    "another rate": (lambda: {"lr": 0.1}, [step(0), ("set lr", 0.05), step(1), ("start_at", 100), step(2)]),
}  # fmt: skip


def scenarios() -> list[Any]:
    return [
        pytest.param(options, calls, k, id=f"{name}-{k}")
        for name, (options, calls) in SCENARIOS.items()
        for k in range(len(calls))
    ]


def assert_equal(a: fu.Optimizer, b: fu.Optimizer) -> None:
    assert_same_bits([item.array for item in a.stepper.items], [item.array for item in b.stepper.items], "params")
    assert exactly(a.state_dict()) == exactly(b.state_dict())


def run(
    make: Callable[[Any], fu.Optimizer],
    calls: list[Call],
    pause: int | None = None,
    resume: Any = None,
    path: Any = None,
) -> fu.Optimizer:
    opt = make(network())
    for k, call in enumerate(calls):
        if k == pause:
            opt = resume(opt, make, path)
        do(opt, call)
    return opt


def bring(case: Case, seed: int = 3) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """A parameter and positive states for it."""
    names = case.make({"w": np.ones(50)}).state
    arrays = random_arrays(seed, [50] * len(names), np.float64)
    return {"w": random_arrays(0, [50], np.float64)[0]}, {
        name: {"w": np.abs(array)} for name, array in zip(names, arrays, strict=True)
    }
