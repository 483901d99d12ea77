"""Steps: each rule on one tensor of each size and type; many small tensors; one call; options; denormals."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

import fastupdate as fu

from .axes import COUNTS, DTYPES, RULES, SIZES, arrays, optimizer, shape_for


class OneTensor:
    """A step on bound gradients."""

    params = (RULES, SIZES, DTYPES)
    param_names = ("rule", "size", "dtype")

    def setup(self, rule: str, size: int, dtype: str) -> None:
        weights, grads = arrays(1, shape_for(rule, size), dtype)
        self.optimizer = optimizer(rule, weights)
        self.optimizer.bind(grads)
        self.optimizer.step()

    def time_step(self, *_: object) -> None:
        self.optimizer.step()


class ManySmall:
    """AdamW on many tensors of 64: gradients that are bound, and new array objects."""

    params = (COUNTS,)
    param_names = ("tensors",)

    def setup(self, count: int) -> None:
        weights, self.grads = arrays(count, 64, "float32")
        self.bound, self.fresh = (fu.AdamW([w.copy() for w in weights], lr=1e-6) for _ in range(2))
        self.bound.bind(self.grads)
        self.others = [g.copy() for g in self.grads]

    def time_bound(self, _: int) -> None:
        self.bound.step()

    def time_fresh(self, _: int) -> None:
        self.grads, self.others = self.others, self.grads
        self.fresh.step(self.grads)

    def time_make(self, _: int) -> None:
        fu.AdamW(self.grads)


class OneCall:
    """The shortest ways to update 64 elements."""

    def setup(self) -> None:
        (self.p,), (self.g,) = arrays(1, 64, "float32")
        self.m, self.v = np.zeros_like(self.p), np.zeros_like(self.p)
        self.optimizer = fu.AdamW([self.p], lr=1e-6)

    def time_step(self) -> None:
        self.optimizer.step([self.g])

    def time_functional(self) -> None:
        fu.functional.adamw(self.p, self.g, self.m, self.v, step=1, lr=1e-6)


class Options:
    """AdamW on four million elements with one option."""

    values: ClassVar[dict[str, Any]] = {
        "clip_norm": 1e6,
        "ema_decay": 0.999,
        "shadow": "bfloat16",
        "zero_grads": True,
        "monitor": True,
    }
    params = (["none", *values],)
    param_names = ("option",)

    def setup(self, option: str) -> None:
        weights, grads = arrays(1, SIZES[-1], "float32")
        chosen = {name: value for name, value in self.values.items() if name == option}
        self.optimizer = fu.AdamW(weights, lr=1e-6, **chosen)
        self.optimizer.bind(grads)
        self.optimizer.step()

    def time_step(self, _: str) -> None:
        self.optimizer.step()


class Denormals:
    """SGD on states that never change, of normal size or too small for it. Some processors are slow on the latter."""

    params = ([1e-3, 1e-42],)
    param_names = ("state",)

    def setup(self, value: float) -> None:
        self.optimizer = fu.SGD([np.ones(20_000, np.float32)], lr=0.1, momentum=1.0)
        self.optimizer.state["b"][0][:] = value
        self.optimizer.bind([np.zeros(20_000, np.float32)])
        self.optimizer.step()

    def time_step(self, _: float) -> None:
        self.optimizer.step()
