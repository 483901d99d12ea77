"""Steps on several ranks beside those of one process, rule by rule: run by tests/test_mpi.py."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from cases import CASES, random_arrays
from mpi_ranks import Check, Ranks

import fastupdate as fu
from fastupdate.sharded import division
from fastupdate.sharded.pieces import share

# Empty tensors and numbers among them, and some that are cut within, at blocks of 1024 elements.
SHAPES = [(5,), (3, 4), (), (7, 3, 5), (0, 7), (9, 700), (1030,), (4096,), (33, 41)]
MATRICES = [(3, 4), (9, 70), (33, 41), (1, 5), (64, 2)]
PIECES = 7


def tensors(seed: int, shapes: Any, dtype: Any) -> list[Any]:
    arrays = random_arrays(seed, [int(np.prod(shape)) for shape in shapes], dtype, spread=1.0)
    return [a.reshape(s).copy() for a, s in zip(arrays, shapes, strict=True)]


def folded(pieces: list[list[Any]]) -> list[Any]:
    """What pieces add up to, pairwise, as csrc/core/sums.h folds blocks: written from its description alone."""
    half = 1
    while 2 * half < len(pieces):
        half *= 2
    if len(pieces) == 1:
        return pieces[0]
    return [a + b for a, b in zip(folded(pieces[:half]), folded(pieces[half:]), strict=True)]


def same(found: Any, expected: Any, what: str) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), what
    assert found.tobytes() == expected.tobytes(), what


def same_states(shared: Any, whole: Any) -> None:
    """Parameters, states and all else that a checkpoint holds, byte for byte."""
    found, expected = shared.state_dict(), whole.state_dict()
    for key, array in expected.pop("arrays").items():
        same(found["arrays"].pop(key), array, key)
    assert not found.pop("arrays")
    assert repr(found) == repr(expected)


def check_steps(case: Any, options: dict[str, Any], dtype: Any, shapes: Any, ranks: Ranks) -> None:
    """Steps of pieces of which each rank has some, beside one process that is handed their sums."""
    division.BUCKET = 8192  # so that there are several
    expected, params = (tensors(1, shapes, dtype) for _ in range(2))
    cls = getattr(fu.sharded, fu.rules.get(case.rule).__name__)
    shared = cls(params, ranks.comm, pieces=PIECES, **{**case.kwargs, **options})
    whole = case.make(expected, **options)
    for step in range(3):
        pieces = [tensors(100 * step + piece, shapes, dtype) for piece in range(PIECES)]
        for piece in share(PIECES, ranks.rank, ranks.count):
            shared.accumulate(pieces[piece])
        report = shared.step(loss_scale=2.0)
        other = whole.step(folded(pieces), loss_scale=2.0 * PIECES)
        assert repr(report.as_dict()) == repr(other.as_dict())
        for k, (p, q) in enumerate(zip(params, expected, strict=True)):
            same(p, q, f"parameter {k} after step {step + 1}")
    same_states(shared, whole)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip_norm": {"clip_norm": 0.5, "nonfinite": "skip", "ema_decay": 0.9, "lookahead": (2, 0.5)},
    "clip_tensor_norm": {"clip_tensor_norm": 0.3, "l1": 1e-3, "shadow": "bfloat16", "maximize": True},
    "clip_value": {"clip_value": 0.3, "l1": 1e-3, "l1_mode": "proximal", "outliers": (3.0, 10)},
    "clip_unit_norm": {"clip_unit_norm": 0.05, "decay": "independent"},
    "sums": {"centralize": True, "optimism": 0.3, "optimism_norm": 5.0, "cautious": "mean", "decay": "cautious"},
}


def checks() -> Iterator[Check]:
    """Every rule as it is, and some rules with every option."""
    for case in CASES:
        for name, options in OPTIONS.items():
            yield f"{case} {name}", partial(check_steps, case, options, np.float32, SHAPES)
