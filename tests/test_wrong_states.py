"""A state that is wrong, or of another optimizer, is refused by name, and nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import exactly, fingerprint
from peers import peer
from scenarios import do, metric, network, step

import fastupdate as fu
from fastupdate import groups, schedules


def make_plain(params: Any = None) -> fu.Optimizer:
    return fu.Adam(
        params or network(),
        lr=schedules.plateau(0.1),
        eps=schedules.constant(1e-6),
        ema_decay=0.9,
        groups=[{"params": "*.b", "weight_decay": 0.1}],
    )


def put(*path: Any) -> Callable[[Any], None]:
    """Sets the entry at a path to the last argument."""

    def change(state: Any) -> None:
        for key in path[:-2]:
            state = state[key]
        state[path[-2]] = path[-1]

    return change


def drop(*path: Any) -> Callable[[Any], None]:
    def change(state: Any) -> None:
        for key in path[:-1]:
            state = state[key]
        del state[path[-1]]

    return change


M = ("arrays", "state.m.layers.0.w")
WRONG: dict[str, tuple[Callable[[Any], None], str]] = {
    "no version": (drop("version"), r"state_dict\['version'\]: expected an entry, received none"),
    "a later version": (put("version", 4), r"state_dict\['version'\]: expected at most 3 .*, received 4"),
    "another entry": (put("more", 1), r"state_dict\['more'\]: expected no such entry"),
    "another rule": (put("rule", "sgd"), r"state_dict\['rule'\]: expected 'adam', received 'sgd'"),
    "other flags": (put("flags", {"amsgrad": True}), r"\['flags'\]\['amsgrad'\]: expected False, received True"),
    "another flag": (put("flags", "more", False), r"\['flags'\]\['more'\]: expected no such entry, received one"),
    "no flags": (put("flags", None), r"\['flags'\]: expected a mapping, received NoneType"),
    "a step before the first": (put("step", -1), r"\['step'\]: expected an integer in \[0, 2⁶³\), received -1"),
    "half a step": (put("step", 1.5), r"\['step'\]: expected an integer"),
    "a true step": (put("step", True), r"\['step'\]: expected an integer"),
    "a step in words": (put("step", "one"), r"\['step'\]: expected an integer"),
    "too many steps": (put("step", 2**63), r"\['step'\]: expected an integer"),
    "micro-batches": (put("micro_batches", None), r"\['micro_batches'\]: expected an integer"),
    "no weight": (drop("weight"), r"state_dict\['weight'\]: expected an entry, received none"),
    "a weight below 0": (put("weight", -1.0), r"state_dict\['weight'\]: expected a finite number ≥ 0, received -1.0"),
    "skips in words": (put("skips", "1"), r"state_dict\['skips'\]: expected an integer in \[0, 2⁶³\), received '1'"),
    "a past of outliers": (put("outliers", {"loss": []}), r"state_dict\['outliers'\]: expected no such entry"),
    "no mapping of outliers": (put("outliers", []), r"state_dict\['outliers'\]: expected a mapping, received list"),
    "a limit's schedule": (put("limits", {"clip_norm": {}}), r"\['limits.clip_norm'\]: expected no such entry"),
    "missing accumulators": (put("micro_batches", 2), r"\['arrays'\]\['accumulator.layers.0.w'\]: expected an entry"),
    "no tensors": (put("tensors", None), r"\['tensors'\]: expected a mapping, received NoneType"),
    "a missing tensor": (drop("tensors", "layers.1.b"), r"\['tensors'\]\['layers.1.b'\]: expected an entry"),
    "an extra tensor": (put("tensors", "x", {}), r"\['tensors'\]\['x'\]: expected no such entry"),
    "a tensor's step": (put("tensors", "empty", "step", 0.5), r"\['empty'\]\['step'\]: expected an integer"),
    "a tensor's date": (put("tensors", "empty", "frozen_until", np.nan), r"\['frozen_until'\]: expected a number ≥ 0"),
    "a tensor's word": (put("tensors", "empty", "frozen_until", "x"), r"\['frozen_until'\]: expected a number ≥ 0"),
    "no groups": (put("groups", {}), r"\['groups'\]: expected a list of 2 groups, received dict"),
    "fewer groups": (drop("groups", 1), r"\['groups'\]: expected a list of 2 groups, received 1 of them"),
    "other members": (put("groups", 1, "params", ["empty"]), r"\['groups'\]\[1\]\['params'\]: expected \['layers"),
    "another hyperparameter": (put("groups", 1, "rho", 0.1), r"\['groups'\]\[1\]\['rho'\]: expected no such entry"),
    "a bad beta1": (put("groups", 1, "beta1", 1.0), r"beta1: expected a number in \[0, 1\), received 1.0"),
    "a beta1 in words": (put("groups", 1, "beta1", "0.9"), "beta1: expected a number"),
    "a number for a schedule": (put("groups", 1, "lr", 0.1), r"\['groups'\]\[1\]\['lr'\]: expected a schedule"),
    "a schedule for a number": (put("groups", 1, "beta1", {"schedule": {}}), r"\['beta1'\]: expected a number, as in"),
    "a plateau's state": (put("groups", 1, "lr", "schedule", "best", np.nan), "best: expected a number, received nan"),
    "no plateau's state": (put("groups", 1, "lr", {"schedule": {}}), "state: expected the keys value, best"),
    "a constant's state": (put("groups", 0, "eps", {"schedule": {"x": 1}}), r"\['schedule'\]\['x'\]: expected no such"),
    "no arrays": (put("arrays", [1]), r"\['arrays'\]: expected a mapping, received list"),
    "a missing state": (drop(*M), r"\['arrays'\]\['state.m.layers.0.w'\]: expected an entry, received none"),
    "no average": (drop("arrays", "ema.empty"), r"\['arrays'\]\['ema.empty'\]: expected an entry"),
    "slow weights": (put("arrays", "slow.empty", np.zeros((0, 3))), r"\['slow.empty'\]: expected no such entry"),
    "some parameters": (put("arrays", "param.empty", np.zeros((0, 3), "f4")), r"\['param.layers.0.w'\]: expected"),
    "another shape": (put(*M, np.zeros((5, 3), np.float32)), r"\['state.m.layers.0.w'\]: expected shape \(3, 5\)"),
    "broadcastable": (put(*M, np.float32(0)), r"expected shape \(3, 5\), received shape \(\)"),
    "a row": (put(*M, np.zeros((1, 5), np.float32)), r"expected shape \(3, 5\), received shape \(1, 5\)"),
    "another dtype": (put(*M, np.zeros((3, 5))), "expected float32, received float64"),
    "swapped bytes": (put(*M, np.zeros((3, 5), ">f4")), "expected float32, received >f4"),
    "None": (put(*M, None), "expected an array, received None"),
    "a list": (put(*M, [[0.0] * 5] * 3), "expected an array, received list"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_state_is_named_and_changes_nothing(change: Callable[[Any], None], message: str) -> None:
    opt, other = make_plain(), make_plain(network(7))
    for k in range(2):
        do(opt, step(k))
        do(other, step(k + 4))
        do(other, metric(float(k)))
    do(other, ("freeze", "layers.1.*"))
    state = other.state_dict()
    change(state)
    before = exactly(opt.state_dict()), fingerprint(opt)
    with pytest.raises((ValueError, TypeError), match=rf"\[(adam|plateau)\].*{message}"):
        opt.load_state_dict(state)
    assert (exactly(opt.state_dict()), fingerprint(opt)) == before
    opt.load_state_dict(other.state_dict())
    assert exactly(opt.state_dict()) == exactly(other.state_dict())


OTHERS: dict[str, tuple[Callable[[Any], fu.Optimizer], str]] = {
    "rule": (fu.AdamW, r"\['rule'\]: expected 'adamw', received 'adam'"),
    "flag": (lambda p: fu.Adam(p, amsgrad=True), r"\['flags'\]\['amsgrad'\]: expected True, received False"),
    "average": (lambda p: fu.Adam(p, ema_decay=0.9), r"\['ema.layers.0.w'\]: expected an entry, received none"),
    "slow weights": (lambda p: fu.Adam(p, lookahead=(2, 0.5)), r"\['slow.layers.0.w'\]: expected an entry"),
    "copies": (lambda p: fu.Adam(p, shadow="float16"), r"\['shadow.layers.0.w'\]: expected an entry"),
    "groups": (lambda p: fu.Adam(p, groups=groups.no_decay(p)), r"\['groups'\]: expected a list of 2 groups"),
    "tensors": (lambda p: fu.Adam(p["layers"]), r"\['tensors'\]\['0.w'\]: expected an entry"),
}


@pytest.mark.parametrize(("make", "message"), OTHERS.values(), ids=OTHERS)
def test_the_state_of_another_kind_of_optimizer_is_refused(make: Any, message: str) -> None:
    state = fu.Adam(network()).state_dict()
    opt = make(network())
    before = fingerprint(opt)
    with pytest.raises(ValueError, match=message):
        opt.load_state_dict(state)
    assert fingerprint(opt) == before


def test_a_read_only_parameter_is_found_before_anything_is_copied(tmp_path: Path) -> None:
    peer("safetensors")
    other = make_plain(network(7))
    do(other, step(0))
    other.save(tmp_path / "run")
    opt = make_plain()
    opt.stepper.tree["layers"][1]["w"].flags.writeable = False
    before = fingerprint(opt)
    with pytest.raises(ValueError, match=r"\[adam\] params\['layers'\]\[1\]\['w'\]: expected a writable array"):
        opt.load_state_dict(fu.load(tmp_path / "run"))
    assert fingerprint(opt) == before
