"""Rules whose step depends on sums: their cases and options, tensors of many shapes, gradients that agree."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from cases import PHASED, PHASED_CASES, Case, cases_of

from fastupdate import rules

STEPS = 4
CASES = PHASED_CASES
FIRST = [cases_of(rule)[0] for rule in PHASED]
MATRICES = [(37, 53), (3, 2100), (1030, 3), (1, 1), (33, 32), (32, 1025)]  # about chunks of rows, lanes and blocks
SHAPES = [*MATRICES, (), (1,), (0, 5), (31,), (1024,), (1025,), (5000,), (4, 3, 3), (70, 40, 5), (2, 2, 65, 2)]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"clip_value": 0.5, "l1": 1e-3, "zero_grads": True, "ema_decay": 0.9},
    "decayed": {"decay": "independent", "weight_decay": 0.01, "clip_norm": 1.0, "monitor": True, "maximize": True},
    "masked": {"optimism": 0.3, "cautious": True, "decay": "coupled", "weight_decay": 0.01, "monitor": True},
    "sums": {
        "centralize": True, "optimism": 0.3, "optimism_norm": 5.0, "cautious": "mean", "decay": "independent",
        "monitor": True,
    },
    "hyperball": {"trust_ratio": True, "keep_norm": True, "decay": "independent", "weight_decay": 0.01},
    "units": {"clip_unit_norm": 0.1, "l1": 1e-3, "l1_mode": "proximal", "shadow": "bfloat16", "lookahead": (2, 0.6)},
}  # fmt: skip

by_case = pytest.mark.parametrize("case", CASES, ids=str)
by_first = pytest.mark.parametrize("case", FIRST, ids=str)


def shapes_for(case: Case) -> list[tuple[int, ...]]:
    return SHAPES if rules.get(case.rule).rule.matrix is None else MATRICES


@cache
def problem(case: Case, dtype: Any) -> list[list[np.ndarray]]:
    """Parameters, and the targets that gradients lead to."""
    rng = np.random.default_rng(5)
    return [[np.asarray(rng.standard_normal(shape), dtype) for shape in shapes_for(case)] for _ in range(2)]


def gradients(params: list[np.ndarray], targets: list[np.ndarray]) -> list[np.ndarray]:
    """They agree from step to step, so that what rules estimate grows."""
    return [np.asarray(p - t, p.dtype) for p, t in zip(params, targets, strict=True)]
