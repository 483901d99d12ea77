"""Every rule beside the library that has it: the rows of tests/golden, twelve steps, each type."""

from __future__ import annotations

from typing import Any

import golden
import numpy as np
import pytest
from cases import BACKENDS, RULE_NAMES, moderate_arrays
from golden import adafactor
from golden.peers import Torch
from tolerances import Drift

import fastupdate as fu
from fastupdate import rules

STEPS = 12

COMBINATIONS = [  # of the backends, whose bits are the same (test_parity.py), one goes through all types
    pytest.param(rule, row, dtype, *backend.values, id=f"{rule}-{name}-{dtype}-{backend.id}", marks=backend.marks)
    for rule in RULE_NAMES
    for name, row in golden.rows(rule).items()
    for dtype in row.dtypes
    for backend in BACKENDS
    if backend is BACKENDS[0] or dtype == row.dtypes[-1]
]


def arrays(seed: int, row: golden.Golden, dtype: str) -> list[np.ndarray]:
    flat = moderate_arrays(seed, [int(np.prod(shape)) for shape in row.shapes], dtype)
    return [a.reshape(shape) for a, shape in zip(flat, row.shapes, strict=True)]


def assert_together(row: golden.Golden, opt: Any, params: list[np.ndarray], dtype: str) -> None:
    """Our optimizer of these weights goes the way of the row's peer, which has started."""
    drift = [Drift(p) for p in params]
    for k in range(STEPS):
        grads = arrays(20 + k, row, dtype)
        theirs = row.peer.step(grads)
        opt.step(grads)
        for d, p, q in zip(drift, params, theirs, strict=True):
            d.compare(p, q)
    assert max(d.worst for d in drift) <= row.ulp


@pytest.mark.peer
@pytest.mark.parametrize(("rule", "row", "dtype", "backend"), COMBINATIONS)
def test_peer(rule: str, row: golden.Golden, dtype: str, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    params = arrays(1, row, dtype)
    row.peer.start(params)
    assert_together(row, rules.get(rule)(params, **row.arguments, backend=backend), params, dtype)


@pytest.mark.peer
def test_small_matrices_have_a_whole_v() -> None:
    """As optax' min_dim_size_to_factor has it: they are a part of a partition."""
    shared = {"lr": 0.5, **adafactor.AS_OPTAX}
    row = golden.Golden({}, adafactor.of_optax(0.5, min_dim_size_to_factor=16), [(5, 30), (40, 30)], ulp=64)
    params = arrays(1, row, "float32")
    row.peer.start(params)
    whole, factored = fu.Adafactor.with_(unfactored=True, **shared), fu.Adafactor.with_(**shared)
    assert_together(row, fu.Partition(params, [("0", whole), ("*", factored)]), params, "float32")


ALONE = [("adafactor", "transformers")]  # whose peer has no learning rate; Adam-mini's takes a model
OF_GROUPS = [
    pytest.param(rule, row, id=f"{rule}-{name}")
    for rule in RULE_NAMES
    for name, row in golden.rows(rule).items()
    if isinstance(row.peer, Torch)
    and (rule, name) not in ALONE
    and rule != "adammini"
    and len(row.shapes) > 1
    and not any(map(callable, row.arguments.values()))
]


@pytest.mark.peer
@pytest.mark.parametrize(("rule", "row"), OF_GROUPS)
def test_groups(rule: str, row: golden.Golden) -> None:
    """The latter half of the tensors has half the learning rate and half the decay of the others."""
    cls, dtype = rules.get(rule), row.dtypes[-1]
    params = arrays(1, row, dtype)
    half = len(params) // 2
    first = cls(params, **row.arguments).groups[0]
    names = {"weight_decay"} & row.peer.arguments.keys() | ({"lr"} if not cls.rule.found_rate else set())
    second = {name: first[name] / 2 for name in names}
    row.peer.start(params, second)
    opt = cls([{"params": params[:half]}, {"params": params[half:], **second}], **row.arguments)
    assert_together(row, opt, params, dtype)


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_decay_and_flags(rule: str) -> None:
    """No row hides a mistake in the decay, and each flag is on in some row and off in another."""
    rows, cls = golden.rows(rule), rules.get(rule)
    if not rows:
        pytest.skip(f"{rule} is compared with its peers in test_rules.py")
    made = [cls([np.ones((2, 2))], **row.arguments) for row in rows.values()]
    if "weight_decay" in cls.rule.hypers:
        assert any(opt.groups[0]["weight_decay"] for opt in made)
    for flag in cls.rule.flags:
        assert {opt.stepper.flags[flag] for opt in made} == {False, True}, flag


@pytest.mark.parametrize("rule", [name for name in RULE_NAMES if "d0" in rules.get(name).rule.hypers])
def test_estimates_grow(rule: str) -> None:
    """In some row, or rows would show nothing of the estimate."""
    grown = []
    for row in golden.rows(rule).values():
        params = arrays(1, row, row.dtypes[-1])
        opt = rules.get(rule)(params, **row.arguments)
        for k in range(STEPS):
            opt.step(arrays(20 + k, row, row.dtypes[-1]))
        grown.append(float(opt.state["d"][0]) > 2 * opt.groups[0]["d0"])
    assert any(grown)
