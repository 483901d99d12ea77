"""Parameters of torch and the rules of their partition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import random_arrays
from torch_cases import arrays_of, hand_over, torch

import fastupdate as fu

SHAPES = {"embed": (7, 4), "first.w": (5, 4), "first.b": (5,), "last.w": (4, 6), "last.b": (4,)}
RULES: dict[str, dict[str, tuple[list[str], Any]]] = {
    "matrices": {
        "muon": (["first.w", "last.w"], fu.Muon.with_(lr=0.02, nesterov=True)),
        "adamw": (["embed", "first.b", "last.b"], fu.AdamW.with_(lr=3e-3, weight_decay=0.1)),
    },
    "three": {
        "sgd": (["embed"], fu.SGD.with_(lr=0.1, momentum=0.9, weight_decay=0.01)),
        "lamb": (["first.w", "last.w"], fu.Lamb.with_(lr=0.02, weight_decay=0.1)),
        "adam": (["first.b", "last.b"], fu.Adam),
    },
    "listed": {
        "prodigy": (["first.w", "first.b", "last.w"], fu.Prodigy.with_(d0=1e-2, weight_decay=0.1)),
        "rmsprop": (["embed", "last.b"], fu.RMSprop.with_(lr=0.01, weight_decay=0.1)),
    },
}
by_rules = pytest.mark.parametrize("rules", RULES.values(), ids=RULES)


def some(seed: int) -> dict[str, np.ndarray]:
    sizes = [int(np.prod(shape)) for shape in SHAPES.values()]
    pairs = zip(SHAPES.items(), random_arrays(seed, sizes, np.float32, spread=0.5), strict=True)
    return {name: a.reshape(shape) for (name, shape), a in pairs}


def parameters() -> dict[str, Any]:
    return {name: torch.nn.Parameter(torch.from_numpy(a)) for name, a in some(1).items()}


def make(rules: Any, params: dict[str, Any], **options: Any) -> Any:
    groups = [{"params": [(name, params[name]) for name in names], "rule": rule} for names, rule in rules.values()]
    return fu.torch.Partition(groups, **options)


def step(optimizer: Any, params: dict[str, Any], seed: int, leave_out: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    grads = {name: None if name in leave_out else g for name, g in some(10 + seed).items()}
    hand_over([*params.values()], [None if g is None else torch.from_numpy(g.copy()) for g in grads.values()])
    optimizer.step()
    return grads


def steps(optimizer: Any, params: dict[str, Any], first: int, count: int = 3) -> None:
    for k in range(first, first + count):
        step(optimizer, params, k)


def values(params: dict[str, Any]) -> list[np.ndarray]:
    return arrays_of([*params.values()])


def kept(params: dict[str, Any]) -> list[np.ndarray]:
    return [a.copy() for a in values(params)]
