"""Runs of rules that keep numbers of the whole list: gradients that agree, what groups tell, the authors' packages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Case
from peers import Module
from tolerances import PEER
from torch_cases import arrays_of, hand_over, ours, parameters, tensors, torch

import fastupdate as fu
from fastupdate import rules

PRODIGY = Case("prodigy", "", {"weight_decay": 0.03, "d0": 1e-2})

# Beside packages, which sum in other orders, and float32 in float32: relative, of numbers such as d, and of how far a
# tensor has come by them.
BY_SUMS = {np.float32: 3e-5, np.float64: 1e-12}


def downhill(params: list[Any], step: int, scale: float = 1.0) -> list[np.ndarray]:
    """Gradients that agree with each other by half, so that estimates of the distance grow."""
    dtype = params[0].detach().numpy().dtype.type
    pairs = zip(tensors(2, dtype), tensors(10 + step, dtype), strict=True)
    hand_over(params, [(same + other) * scale for same, other in pairs])
    return [p.grad.numpy().copy() for p in params]


def steps(optimizer: Any, params: list[Any], first: int = 0, count: int = 3) -> None:
    for k in range(first, first + count):
        downhill(params, k)
        optimizer.step()


def a_run(case: Case, make: Any = ours, dtype: Any = np.float32, **options: Any) -> tuple[Any, list[Any]]:
    params = parameters(1, dtype)
    optimizer = make(case, params, **options)
    steps(optimizer, params)
    return optimizer, params


def copied(params: list[Any]) -> list[Any]:
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


def told(optimizer: Any) -> dict[str, float]:
    """The numbers, which all groups have alike."""
    first = optimizer.param_groups[0]
    for group in optimizer.param_groups:
        assert {name: group[name] for name in told_names(optimizer)} == {n: first[n] for n in told_names(optimizer)}
    return {name: first[name] for name in told_names(optimizer)}


def told_names(optimizer: Any) -> list[str]:
    return [*fu.torch.listed.names_of(optimizer.rule).values(), "k"]


PACKAGES = {
    "prodigy": Module("prodigyopt"),
    "dadaptadam": Module("dadaptation"),
    "dadaptsgd": Module("dadaptation"),
}


def theirs(case: Case, params: list[Any], **options: Any) -> Any:
    name = rules.get(case.rule).__name__
    defaults = {"momentum": 0.9} if name == "DAdaptSGD" else {}
    return getattr(PACKAGES[case.rule], name)(params, **{**defaults, **case.kwargs, **options})


def assert_close(params: list[Any], others: list[Any]) -> None:
    """That all have come from `parameters(1)` to the same place, but for the rounding of weights and of sums."""
    dtype = params[0].detach().numpy().dtype.type
    for p, q, start in zip(*map(arrays_of, (params, others, parameters(1, dtype))), strict=True):
        way, largest = (np.abs(a).max(initial=0.0) for a in (q - start, np.maximum(np.abs(q), np.abs(start))))
        assert np.abs(p - q).max(initial=0.0) <= BY_SUMS[dtype] * way + PEER * np.spacing(largest)


class Pair:
    """An optimizer of ours and one of a package's, on parameters of the same values."""

    def __init__(self, case: Case, dtype: Any = np.float32, make: Any = None) -> None:
        self.dtype, self.taken = dtype, 0
        self.params, self.others = parameters(1, dtype), parameters(1, dtype)
        make = make or (lambda build, params: build(case, params))
        self.ours, self.theirs = make(ours, self.params), make(theirs, self.others)

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            for optimizer, params in ((self.ours, self.params), (self.theirs, self.others)):
                steps(optimizer, params, self.taken, 1)
            self.taken += 1
            self.compare()

    def compare(self) -> None:
        assert_close(self.params, self.others)
        for mine, there in zip(self.ours.param_groups, self.theirs.param_groups, strict=True):
            for key in {"d", "d_max", "d_numerator", "numerator_weighted"} & mine.keys():
                assert mine[key] == pytest.approx(float(there[key]), rel=BY_SUMS[self.dtype]), key
            assert mine["k"] == there["k"]
