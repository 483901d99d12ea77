"""A small network of named tensors: what tests of groups and of freezing start from."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import random_arrays

import fastupdate as fu
from fastupdate.step.hypers import Group

SHAPES = {"embed.w": (7, 5), "block.w": (6, 4), "block.b": (4,), "head.w": (3, 4), "head.b": (3,)}
LAYERS = ["embed.*", "block.*", "head.*"]


def tensors(seed: int, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    flat = random_arrays(seed, [int(np.prod(shape)) for shape in SHAPES.values()], dtype)
    return {name: a.reshape(SHAPES[name]) for name, a in zip(SHAPES, flat, strict=True)}


def steps(opt: fu.Optimizer, *seeds: int, leave_out: tuple[str, ...] = ()) -> None:
    for seed in seeds:
        opt.step({name: g for name, g in tensors(seed).items() if name not in leave_out})


def group_of(opt: fu.Optimizer, name: str) -> Group:
    return next(group for group in opt.groups if name in group["params"])


def only(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: arrays[name]}
