"""Every rule beside the library that has it: the rows of tests/golden, twelve steps, each type."""

from __future__ import annotations

from typing import Any

import golden
import numpy as np
import pytest
from cases import RULE_NAMES, by_backend, moderate_arrays
from tolerances import Drift

from fastupdate import rules

STEPS = 12

COMBINATIONS = [
    pytest.param(rule, row, dtype, id=f"{rule}-{name}-{dtype}")
    for rule in RULE_NAMES
    for name, row in golden.rows(rule).items()
    for dtype in row.dtypes
]


def arrays(seed: int, row: golden.Golden, dtype: str) -> list[np.ndarray]:
    flat = moderate_arrays(seed, [int(np.prod(shape)) for shape in row.shapes], dtype)
    return [a.reshape(shape) for a, shape in zip(flat, row.shapes, strict=True)]


@pytest.mark.peer
@by_backend
@pytest.mark.parametrize(("rule", "row", "dtype"), COMBINATIONS)
def test_peer(rule: str, row: golden.Golden, dtype: str, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    params = arrays(1, row, dtype)
    row.peer.start(params)
    opt = rules.get(rule)(params, **row.arguments, backend=backend)
    drift = [Drift(p) for p in params]
    for k in range(STEPS):
        grads = arrays(20 + k, row, dtype)
        theirs = row.peer.step(grads)
        opt.step(grads)
        for d, p, q in zip(drift, params, theirs, strict=True):
            d.compare(p, q)
    assert max(d.worst for d in drift) <= row.ulp


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_decay_and_flags(rule: str) -> None:
    """No row hides a mistake in the decay, and each flag is on in some row and off in another."""
    rows, cls = golden.rows(rule), rules.get(rule)
    if not rows:
        pytest.skip(f"{rule} is compared with its peers in test_rules.py or test_phase_peers.py")
    made = [cls([np.ones((2, 2))], **row.arguments) for row in rows.values()]
    if "weight_decay" in cls.rule.hypers:
        assert any(opt.groups[0]["weight_decay"] for opt in made)
    for flag in cls.rule.flags:
        assert {opt.stepper.flags[flag] for opt in made} == {False, True}, flag
