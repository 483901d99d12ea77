"""Runs of an optimizer of torch parameters, a few steps at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import Case
from torch_cases import hand_over, parameters, tensors, torch

STEPS = 3


def steps(optimizer: Any, params: list[Any], first: int, count: int = STEPS) -> None:
    for k in range(first, first + count):
        hand_over(params, tensors(2 + k))
        optimizer.step()


def a_run(case: Case, make: Any, layout: str = "contiguous", **options: Any) -> tuple[Any, list[Any]]:
    params = parameters(1, np.float32, layout)
    optimizer = make(case, params, **options)
    steps(optimizer, params, 0)
    return optimizer, params


def copied(params: list[Any]) -> list[Any]:
    return [torch.nn.Parameter(p.detach().clone()) for p in params]
