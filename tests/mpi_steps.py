"""Steps on several ranks beside those of one process, rule by rule: run by tests/test_mpi.py."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from cases import CASES, EVERY_CASE, EVERY_PHASED_CASE, cases_of, random_arrays
from mpi_ranks import Check, Ranks

import fastupdate as fu
from fastupdate.sharded import division

# Empty tensors and numbers among them, and some that are cut within, at blocks of 1024 elements.
SHAPES = [(5,), (3, 4), (), (7, 3, 5), (0, 7), (9, 700), (1030,), (4096,), (33, 41)]
KINDS = {"tensors": SHAPES, "matrices": [(3, 4), (9, 70), (33, 41), (1, 5), (64, 2)]}
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
    return [np.asarray(a + b) for a, b in zip(folded(pieces[:half]), folded(pieces[half:]), strict=True)]


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


class Data(NamedTuple):
    """Where parameters start from, and of each step the gradients of all pieces and what they add up to."""

    params: list[Any]
    steps: list[tuple[list[list[Any]], list[Any]]]


@cache
def data(kind: str, dtype: Any) -> Data:
    shapes = KINDS[kind]
    steps = [[tensors(100 * step + piece, shapes, dtype) for piece in range(PIECES)] for step in (1, 2)]
    return Data(tensors(1, shapes, dtype), [(pieces, folded(pieces)) for pieces in steps])


def make(case: Any, params: Any, comm: Any, **options: Any) -> Any:
    """An optimizer of a rule, on the ranks of a communicator."""
    cls = getattr(fu.sharded, fu.rules.get(case.rule).__name__)
    return cls(params, comm, **{**case.kwargs, **options})


def check_steps(case: Any, options: dict[str, Any], dtype: Any, kind: str, ranks: Ranks) -> None:
    """Steps of pieces of which each rank has some, beside one process that is handed their sums."""
    division.BUCKET = 32768  # so that there are several
    start, steps = data(kind, dtype)
    expected, params = ([p.copy() for p in start] for _ in range(2))
    shared = make(case, params, ranks.comm, pieces=PIECES, **options)
    whole = case.make(expected, **options)
    for step, (pieces, total) in enumerate(steps):
        for piece in shared.own_pieces:
            shared.accumulate([g.copy() for g in pieces[piece]])
        report = shared.step(loss_scale=2.0)
        other = whole.step([g.copy() for g in total], loss_scale=2.0 * PIECES)
        if options.get("monitor"):
            for name in report.tensors.dtype.names[1:]:
                assert report.tensors[name].tobytes() == other.tensors[name].tobytes(), name
        assert repr(report.as_dict()) == repr(other.as_dict())
        for k, (p, q) in enumerate(zip(params, expected, strict=True)):
            same(p, q, f"parameter {k} after step {step + 1}")
    same_states(shared, whole)


OPTIONS: dict[str, dict[str, Any]] = {
    "clip_norm": {"clip_norm": 0.5, "nonfinite": "skip", "ema_decay": 0.9, "lookahead": (2, 0.5)},
    "clip_tensor_norm": {"clip_tensor_norm": 0.3, "l1": 1e-3, "shadow": "bfloat16", "maximize": True},
    "clip_value": {"clip_value": 0.3, "l1": 1e-3, "l1_mode": "proximal", "outliers": (3.0, 10)},
    "clip_unit_norm": {"clip_unit_norm": 0.05, "decay": "independent"},
    "sums": {"centralize": True, "optimism": 0.3, "optimism_norm": 5.0, "cautious": "mean", "decay": "cautious"},
    "monitored sums": {"centralize": True, "cautious": "count", "monitor": True, "clip_norm": 0.5},
    "hyperball": {"trust_ratio": True, "keep_norm": True},
}


def one_of_each_kind() -> list[str]:
    """A rule for each way of summing: over which extents, with or without products of matrices and modes."""
    kinds = {}
    for name, rule in fu.rules.every().items():
        extents = frozenset(extent for phase in rule.phases for extent in phase.settles)
        kinds.setdefault((extents, rule.matrix is None, rule.evaluated is None), name)
    return list(kinds.values())


def checks() -> Iterator[Check]:
    """Every rule as it is, one of each kind monitored, and some with every option."""
    for case in [*EVERY_CASE, *EVERY_PHASED_CASE]:
        kind = "tensors" if fu.rules.get(case.rule).rule.matrix is None else "matrices"
        yield f"{case}", partial(check_steps, case, {}, np.float64, kind)
    for name in one_of_each_kind():
        case = cases_of(name)[0]
        kind = "tensors" if fu.rules.get(name).rule.matrix is None else "matrices"
        options = {"monitor": True, "zero_grads": True, "shadow": "bfloat16"}
        yield f"{case} monitored", partial(check_steps, case, options, np.float32, kind)
    for case, (name, options) in itertools.product([CASES[0], CASES[-1]], OPTIONS.items()):
        yield f"{case} {name}", partial(check_steps, case, options, np.float32, "tensors")
