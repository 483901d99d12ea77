"""Attributes of an optimizer: what can be read, what can be set, and what is refused with the remedy."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from cases import fingerprint
from named import tensors

import fastupdate as fu
from fastupdate.arrays.tree import leaves


def test_of_several_numbers_all_are_set_or_none() -> None:
    opt = fu.Adam(tensors(0), groups=[{"params": "head.*", "eps": 1e-3}])
    before = fingerprint(opt)
    for value in ((0.5, 2.0), (0.5, "0.9"), (len, -1)):
        for act in (lambda v: opt.groups[0].update(betas=v), lambda v: setattr(opt, "betas", v)):
            with pytest.raises((TypeError, ValueError), match=r"\[adam\] beta2: expected a number in \[0, 1\)"):
                act(value)
    assert fingerprint(opt) == before


def test_attributes_are_those_of_every_group() -> None:
    opt = fu.Adam(tensors(0), lr=0.1, clip_norm=2.0, groups=[{"params": "head.*", "lr": 0.5}])
    assert (opt.betas, opt.weight_decay, opt.lr_scale, opt.clip_norm, opt.decay) == ((0.9, 0.999), 0.0, 1.0, 2.0, None)
    assert opt.params is opt.stepper.tree
    with pytest.raises(ValueError, match=r"\[adam\] lr: expected groups that agree \(else see .*\), received 0.1, 0.5"):
        opt.lr  # noqa: B018
    schedule = fu.schedules.cosine(0.3, 10)
    for value in (0.25, np.float32(0.125), schedule):
        opt.lr = value
        assert [group["lr"] for group in opt.groups] == [value] * 2
        assert opt.lr == value
        assert opt.step(tensors(1)).lr == (schedule(2) if value is schedule else value)
    opt.betas = (0.5, 0.25)
    assert [group["beta2"] for group in opt.groups] == [0.25] * 2


ASSIGNMENTS: dict[str, tuple[Any, str]] = {
    "groups": ([{"params": "*", "lr": 1.0}], "values set one by one, as opt.groups"),
    "params": ([np.ones(3)], "a new optimizer for other parameters, or theirs written in place"),
    "state": ({}, "arrays written in place, or load_state_dict"),
    "clip_norm": (1.0, "a value when the optimizer is made"),
    "monitor": (True, "a value when the optimizer is made"),
    "amsgrad": (True, "a value when the optimizer is made"),
}


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_an_assignment_without_effect_says_what_has_one(name: str) -> None:
    value, remedy = ASSIGNMENTS[name]
    with pytest.raises(AttributeError, match=rf"\[adam\] {name}: expected {remedy}.*, received an assignment"):
        setattr(fu.Adam(tensors(0)), name, value)


@pytest.mark.parametrize("framework", [dict, list])
def test_live_arrays_are_written_not_exchanged(framework: Any) -> None:
    tree = {"a": {"w": np.ones(3)}, "b": [np.ones(2), (np.ones(1),)]}
    opt = fu.Adam(tree if framework is dict else [np.ones(3), np.ones(2)], ema_decay=0.9, shadow="float16")
    state, key = opt.state, "a" if framework is dict else 0
    for structure, at in ((state, "m"), (state, "new"), (state["m"], key), (opt.ema, key), (opt.shadow, key)):
        for change in (lambda s, k: s.__setitem__(k, np.ones(3)), lambda s, k: s.pop(k), lambda s, k: s.clear()):
            with pytest.raises(TypeError, match=r"\[adam\] (state|ema|shadow): expected arrays written in place"):
                change(structure, at)
    for copied in (copy.deepcopy(state["m"]), pickle.loads(pickle.dumps(state["m"])), copy.copy(state["m"])):
        assert type(copied) is framework
        copied[key] = None  # a copy is the user's own
    for kind in (state["m"], state["m"]["a"]) if framework is dict else (state["m"],):
        for name, array in list(kind.items() if framework is dict else enumerate(kind)):
            if isinstance(array, np.ndarray):
                kind[name] += 0.0  # writes in place, and assigns the same array
    for item in opt.stepper.items:
        item.states["m"][...] = 3.0
    assert all((leaf == 3.0).all() for _, leaf in leaves(opt.state["m"]))
