"""A resumed run has the bits of an unbroken one; what a state dict gives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Case, by_backend, by_rule, exactly
from peers import peer
from scenarios import SCENARIOS, Call, accumulate, assert_equal, do, grads, metric, network, run, scenarios, step

import fastupdate as fu
from fastupdate import schedules


def by_dict(opt: fu.Optimizer, make: Callable[[Any], fu.Optimizer], _: Path) -> fu.Optimizer:
    """State and parameters go by memory."""
    other = make(copy.deepcopy(opt.stepper.tree))
    other.load_state_dict(opt.state_dict())
    return other


def by_file(opt: fu.Optimizer, make: Callable[[Any], fu.Optimizer], path: Path) -> fu.Optimizer:
    """All goes by a file; the parameters are other ones before."""
    peer("safetensors")
    opt.save(path / "run")
    other = make(network(50))
    other.load_state_dict(fu.load(path / "run"))
    return other


@pytest.mark.parametrize("resume", [by_dict, by_file])
@pytest.mark.parametrize(("options", "calls", "pause"), scenarios())
def test_a_resumed_run_has_the_bits_of_an_unbroken_one(
    options: Any, calls: list[Call], pause: int, resume: Any, tmp_path: Path
) -> None:
    def make(params: Any) -> fu.Optimizer:
        return fu.AdamW(params, **options())

    assert_equal(run(make, calls, pause, resume, tmp_path), run(make, calls))


@by_rule
@by_backend
def test_every_rule_resumes(case: Case, backend: str, tmp_path: Path) -> None:
    def make(params: Any) -> fu.Optimizer:
        return case.make(params, backend=backend, **SCENARIOS["everything kept"][0]())

    calls: list[Call] = [step(0), step(1), accumulate(2), ("step",), step(3)]
    assert_equal(run(make, calls, 3, by_file, tmp_path), run(make, calls))


def test_resuming_keeps_bound_gradients() -> None:
    opt, other = fu.Adam(network()), fu.Adam(network())
    buffers = grads(0)
    opt.bind(buffers)
    opt.freeze("layers.0.*")
    opt.load_state_dict(other.state_dict())  # thaws
    opt.step()
    other.step(grads(0))
    assert_equal(opt, other)


@pytest.mark.peer
def test_torch_parameters_are_found_where_they_are_now(tmp_path: Path) -> None:
    torch = peer("torch")
    w = torch.ones(5)
    opt = fu.Adam({"w": w}, ema_decay=0.9)
    opt.step({"w": torch.full((5,), 2.0)})
    opt.freeze("w")
    w.data = torch.zeros(5)
    with opt.ema_weights():
        assert torch.equal(w, torch.from_numpy(opt.ema["w"]))
    assert torch.equal(w, torch.zeros(5))
    w.data = torch.full((5,), 3.0)
    opt.save(tmp_path / "run")
    w.data = torch.ones(5)
    opt.load_state_dict(fu.load(tmp_path / "run"))
    assert torch.equal(w, torch.full((5,), 3.0))


def test_state_dict_is_a_copy() -> None:
    opt = fu.Adam(network(), ema_decay=0.9, lr=schedules.plateau(0.1))
    do(opt, accumulate(0))
    taken = opt.state_dict()
    expected = copy.deepcopy(taken)
    do(opt, ("step",))
    do(opt, metric(1.0))
    opt.freeze("*")
    opt.groups[0]["params"].append("another")
    assert exactly(taken) == exactly(expected)


def plain(x: Any) -> bool:
    if isinstance(x, (dict, list)):
        return all(plain(value) for value in (x.values() if isinstance(x, dict) else x))
    return x is None or type(x) in (int, float, bool, str, np.ndarray)


@pytest.mark.parametrize("name", SCENARIOS)
def test_state_dict_holds_arrays_and_numbers_alone(name: str) -> None:
    options, calls = SCENARIOS[name]
    opt = run(lambda params: fu.AdamW(params, **options()), calls)
    assert plain(opt.state_dict())


def test_dtypes_are_kept() -> None:
    opt = fu.Adam(network(), shadow="bfloat16")
    arrays = opt.state_dict()["arrays"]
    kinds = {key: arrays[key].dtype.name for key in arrays if key.endswith(".w")}
    assert kinds == {
        "state.m.layers.0.w": "float32", "state.v.layers.0.w": "float32", "shadow.layers.0.w": "uint16",
        "state.m.layers.1.w": "float64", "state.v.layers.1.w": "float64", "shadow.layers.1.w": "uint16",
    }  # fmt: skip
