"""Freezing and thawing: who moves when, and that the others stay bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from cases import Case, arrays_of, assert_same_bits, by_backend, by_rule, fingerprint
from named import LAYERS, SHAPES, only, steps, tensors

import fastupdate as fu
from fastupdate.groups import gradual_unfreezing
from fastupdate.step.hypers import Hypers

# -- freezing ---------------------------------------------------------------------------------------------------------

EVERYTHING = {"ema_decay": 0.9, "shadow": "bfloat16", "lookahead": (2, 0.5), "l1": 1e-3, "clip_value": 1.0}


def own_arrays(opt: fu.Optimizer, name: str) -> list[np.ndarray]:
    """All that belongs to one tensor."""
    k = [item.name for item in opt.stepper.items].index(name)
    return [arrays[k].copy() for arrays in arrays_of(opt).values() if len(arrays) == len(opt.stepper.items)]


@by_rule
@by_backend
def test_a_frozen_tensor_stays_and_the_others_do_not_notice(case: Case, backend: str) -> None:
    opt = case.make(tensors(0), backend=backend, **EVERYTHING)
    steps(opt, 1, 2)
    frozen = opt.freeze("block.*")
    before = {name: own_arrays(opt, name) for name in frozen}
    steps(opt, 3, 4)
    for name in frozen:
        assert_same_bits(own_arrays(opt, name), before[name], name)

    moving = [name for name in SHAPES if name not in frozen]
    alone = case.make({name: tensors(0)[name] for name in moving}, backend=backend, **EVERYTHING)
    for seed in (1, 2, 3, 4):
        alone.step({name: tensors(seed)[name] for name in moving})
    for name in moving:
        assert_same_bits(own_arrays(opt, name), own_arrays(alone, name), name)


def test_frozen_tensors_are_not_in_the_plan() -> None:
    opt = fu.Adam(tensors(0))
    opt.freeze(["embed.*", "block.*"])
    assert [item.name for item in opt.stepper.plan.items] == ["head.w", "head.b"]
    assert len(opt.stepper.plan.tensors) == 2


@by_backend
def test_stages_of_frozen_groups_are_not_run(backend: str) -> None:
    """What only they ask for is none of the step's; the others go by its loops, or a whole range at once."""
    opt = fu.Adam(tensors(0), groups=[{"params": "head.*", "l1": 1e-3}], backend=backend)
    steps(opt, 1)
    assert opt.stepper.engine.stages
    opt.freeze("head.*")
    steps(opt, 2)
    assert not opt.stepper.engine.stages


@pytest.mark.parametrize("option", [{"clip_norm": 1.0}, {"nonfinite": "raise"}, {"clip_unit_norm": 0.1}], ids=str)
def test_gradients_of_frozen_tensors_do_not_count(option: dict[str, Any]) -> None:
    params, alone = tensors(0), only("head.w", tensors(0))
    opt = fu.SGD(params, **option)
    opt.freeze(["embed.*", "block.*", "head.b"])
    grads = tensors(1)
    grads["embed.w"][:] = np.nan
    report = opt.step(grads)
    expected = fu.SGD(alone, **option).step(only("head.w", grads))
    assert report.grad_norm == expected.grad_norm
    assert_same_bits(params["head.w"], alone["head.w"], "head.w")


@pytest.mark.parametrize("missing", ["absent", "none", "given"])
def test_gradients_of_frozen_tensors_may_be_missing(missing: str) -> None:
    params, other = tensors(0), tensors(0)
    opt = fu.Adam(params)
    opt.freeze("embed.w")
    grads: dict[str, Any] = tensors(1)
    if missing == "none":
        grads["embed.w"] = None
    elif missing == "absent":
        del grads["embed.w"]
    opt.step(grads)
    fu.Adam(other).step(tensors(1))
    for name in SHAPES:
        assert (params[name] == (tensors(0) if name == "embed.w" else other)[name]).all()


def test_all_may_be_frozen() -> None:
    params = tensors(0)
    opt = fu.Adam(params)
    opt.freeze("*")
    assert opt.step({}).step == 1
    assert opt.step().step == 2
    assert_same_bits(list(params.values()), list(tensors(0).values()), "params")


@by_rule
def test_a_tensor_thawed_with_its_state_goes_on_from_it(case: Case) -> None:
    opt, alone = case.make(tensors(0)), case.make(only("head.w", tensors(0)))
    for seed, action in enumerate(["step", "step", "freeze", "step", "step", "unfreeze", "step", "step"]):
        if action != "step":
            getattr(opt, action)("head.w")
            continue
        opt.step(tensors(seed))
        if seed not in (3, 4):
            alone.step(only("head.w", tensors(seed)))
    assert_same_bits(own_arrays(opt, "head.w"), own_arrays(alone, "head.w"), "head.w")


@by_rule
@pytest.mark.parametrize("poison", [0.0, np.nan], ids=["finite", "nan"])
def test_a_tensor_thawed_with_a_reset_is_like_new(case: Case, poison: float) -> None:
    opt = case.make(tensors(0))
    steps(opt, 1, 2)
    opt.freeze("*.w")
    for state in opt.state.values():
        state["head.w"] += poison
    alone = case.make({"head.w": opt.stepper.tree["head.w"].copy()})
    opt.unfreeze("*.w", state="reset")
    steps(opt, 3, 4)
    for seed in (3, 4):
        alone.step(only("head.w", tensors(seed)))
    assert_same_bits(own_arrays(opt, "head.w"), own_arrays(alone, "head.w"), "head.w")


def test_a_tensor_may_be_thawed_with_part_of_its_state() -> None:
    opt = fu.Adam(tensors(0))
    steps(opt, 1)
    held = {name: {key: a.copy() for key, a in state.items()} for name, state in opt.state.items()}
    opt.freeze("head.*")
    assert opt.unfreeze("*.w", state=0.5) == ["embed.w", "block.w", "head.w"]
    for name, state in opt.state.items():
        for key, array in state.items():
            factor = np.float32(0.5 if key == "head.w" else 1.0)  # head.b is still frozen, the others never were
            assert_same_bits(array, held[name][key] * factor, f"{name} {key}")
    assert {item.name: item.t for item in opt.stepper.items} == dict.fromkeys(SHAPES, 1)


FREEZING: dict[str, tuple[Any, type[Exception], str]] = {
    "matches nothing": (lambda opt: opt.freeze("tail"), ValueError, "pattern: expected a pattern that matches"),
    "no pattern": (
        lambda opt: opt.freeze(None),
        TypeError,
        "pattern: expected a glob, a regular expression, a parameter, a mask of truth values or several of them, rec",
    ),
    "mapping of numbers": (
        lambda opt: opt.freeze({"head.w": 1}),
        TypeError,
        r"pattern: expected a mask of truth values, received 1 at 'head.w'",
    ),
    "mapping of patterns": (
        lambda opt: opt.freeze({"embed.w": "a"}),
        TypeError,
        r"pattern: expected a mask of truth values, received 'a' at 'embed.w'",
    ),
    "mask and glob": (lambda opt: opt.freeze(["*.b", True]), TypeError, r"pattern: expected a mask of truth values"),
    "mask of strangers": (
        lambda opt: opt.freeze({"head.w": True, "tail": {"w": False}}),
        ValueError,
        r"pattern: expected a mask of the parameters \(embed.w, .*\), received an entry 'tail.w'",
    ),
    "long mask": (lambda opt: opt.freeze([True] * 9), ValueError, "pattern: expected a mask of the parameters"),
    "bytes": (lambda opt: opt.freeze(b"*"), TypeError, "pattern: expected a glob"),
    "state": (lambda opt: opt.unfreeze("*", state="keep"), ValueError, "state: expected 'hold', 'reset' or"),
    "growth": (lambda opt: opt.unfreeze("*", state=1.5), ValueError, "state: expected"),
    "nan": (lambda opt: opt.unfreeze("*", state=np.nan), ValueError, "state: expected"),
    "bool": (lambda opt: opt.unfreeze("*", state=True), TypeError, "state: expected"),
}


@pytest.mark.parametrize(("call", "error", "message"), FREEZING.values(), ids=FREEZING)
def test_mistakes_in_freezing_change_nothing(call: Any, error: type[Exception], message: str) -> None:
    opt = fu.Adam(tensors(0))
    steps(opt, 1)
    opt.freeze("head.*")
    before = fingerprint(opt)
    with pytest.raises(error, match=message):
        call(opt)
    assert fingerprint(opt) == before


@pytest.mark.parametrize("call", ["freeze", "unfreeze"])
def test_freezing_waits_for_accumulated_gradients(call: str) -> None:
    opt = fu.Adam(tensors(0))
    opt.accumulate(tensors(1))
    before = fingerprint(opt)
    with pytest.raises(ValueError, match=r"\[adam\] pattern: expected no accumulated micro-batches \(step or discard"):
        getattr(opt, call)("head.*")
    assert fingerprint(opt) == before
    opt.step()
    assert getattr(opt, call)("head.*") == ["head.w", "head.b"]


# -- bound gradients --------------------------------------------------------------------------------------------------


@by_rule
def test_bound_gradients_follow_freezing(case: Case) -> None:
    bound, passed = case.make(tensors(0)), case.make(tensors(0))
    buffers = tensors(1)
    bound.bind(buffers)
    actions = ["step", "freeze", "step", "step", "unfreeze", "step", "step"]
    for seed, action in enumerate(actions):
        if action != "step":
            for opt in (bound, passed):
                getattr(opt, action)("block.*")
            continue
        for name, g in tensors(seed).items():
            buffers[name][...] = g
        bound.step()
        passed.step(tensors(seed))
    assert_same_bits(list(arrays_of(bound).values()), list(arrays_of(passed).values()), "arrays")


def test_bound_gradients_take_the_fast_path_again_after_freezing() -> None:
    opt = fu.Adam(tensors(0))
    opt.bind(tensors(1))
    opt.freeze("head.*")
    opt.step()
    assert [g.shape for g in opt.stepper.bound.flat] == [SHAPES[name] for name in ("embed.w", "block.w", "block.b")]


@pytest.mark.parametrize("thaw", ["by hand", "by date"])
def test_a_thawed_tensor_needs_a_gradient(thaw: str) -> None:
    groups = [{"params": "head.b", "frozen_until": 1}] if thaw == "by date" else []
    opt = fu.Adam(tensors(0), groups=groups)
    if thaw == "by hand":
        opt.freeze("head.b")
    grads = tensors(1)
    del grads["head.b"]
    opt.bind(grads)
    opt.step()
    if thaw == "by hand":
        opt.unfreeze("head.b")
    params = [a.copy() for a in opt.stepper.tree.values()]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"\[adam\] grads\['head.b'\]: expected an array \(or .*\), received none"):
            opt.step()
    assert opt.step_count == 1
    assert_same_bits(list(opt.stepper.tree.values()), params, "params")
    opt.bind(tensors(1))
    assert opt.step().step == 2


# -- thawing by date --------------------------------------------------------------------------------------------------


@by_rule
@by_backend
def test_a_tensor_thaws_at_its_date_as_if_it_were_new(case: Case, backend: str) -> None:
    opt = case.make(tensors(0), backend=backend, groups=[{"params": "head.w", "frozen_until": 2}])
    alone = case.make(only("head.w", tensors(0)), backend=backend)
    for seed in range(4):
        if seed == 2:
            assert_same_bits(opt.stepper.tree["head.w"], tensors(0)["head.w"], "head.w")
        opt.step(tensors(seed))
        if seed >= 2:
            alone.step(only("head.w", tensors(seed)))
    assert_same_bits(own_arrays(opt, "head.w"), own_arrays(alone, "head.w"), "head.w")


@pytest.mark.parametrize(("date", "first"), [(0, 1), (1, 2), (2.5, 4), (3, 4)])
@pytest.mark.parametrize("way", ["passed", "bound", "accumulated"])
def test_the_date_is_a_number_of_steps(date: float, first: int, way: str) -> None:
    opt = fu.SGD(tensors(0), groups=[{"params": "head.b", "frozen_until": date}])
    grads = tensors(1)
    if way == "bound":
        opt.bind(grads)
    moved = None
    while moved is None:
        if way == "accumulated":
            opt.accumulate(grads)
            opt.accumulate(grads)
        opt.step(grads if way == "passed" else None)
        if (opt.stepper.tree["head.b"] != tensors(0)["head.b"]).any():
            moved = opt.step_count
    assert moved == first


def test_layers_thaw_one_after_the_other() -> None:
    opt = fu.Adam(tensors(0), groups=gradual_unfreezing(LAYERS, every=2))
    moving = []
    for seed in range(6):
        before = tensors(0) if not moving else {name: a.copy() for name, a in opt.stepper.tree.items()}
        opt.step(tensors(seed))
        moving.append([name for name in SHAPES if (opt.stepper.tree[name] != before[name]).any()])
    head, block = ["head.w", "head.b"], ["block.w", "block.b", "head.w", "head.b"]
    assert moving == [head, head, block, block, list(SHAPES), list(SHAPES)]
    assert {item.name: item.t for item in opt.stepper.items} | own_times(opt) == {
        "embed.w": 2, "block.w": 4, "block.b": 4, "head.w": 6, "head.b": 6,
    }  # fmt: skip


def own_times(opt: fu.Optimizer) -> dict[str, int]:
    return {name: entry["step"] for name, entry in opt.state_dict()["tensors"].items()}


def test_freezing_by_hand_outlasts_the_date_and_thawing_by_hand_precedes_it() -> None:
    dates = [{"params": "head.*", "frozen_until": 1}, {"params": "block.*", "frozen_until": 1000}]
    opt = fu.Adam(tensors(0), groups=dates)
    opt.freeze("head.w")
    opt.unfreeze("block.w")
    steps(opt, 1, 2, 3)
    assert own_times(opt) == {"embed.w": 3, "block.w": 3, "block.b": 0, "head.w": 0, "head.b": 2}


def test_the_date_counts_from_start_at() -> None:
    opt = fu.Adam(tensors(0), groups=[{"params": "head.w", "frozen_until": 100}])
    opt.start_at(100)
    steps(opt, 1)
    assert own_times(opt)["head.w"] == 0
    steps(opt, 2)
    assert own_times(opt)["head.w"] == 1


def test_before_its_date_a_tensor_is_frozen_again() -> None:
    """Whether the optimizer goes on, or one that was resumed."""
    ran = fu.Adam(tensors(0), groups=[{"params": "head.w", "frozen_until": 2}])
    steps(ran, 1, 2, 3)
    ran.start_at(1)
    resumed = copy.deepcopy(ran)
    for opt, times in ((ran, [0, 0, 1]), (resumed, [0, 0, 1])):
        for seed, time in enumerate(times):
            steps(opt, seed)
            assert own_times(opt)["head.w"] == time
    assert fingerprint(ran) == fingerprint(resumed)


def test_waiting_for_a_date_leaves_the_hyperparameters_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    opt = fu.Adam(tensors(0), groups=[{"params": "head.w", "frozen_until": 3}])
    opt.bind(tensors(1))
    opt.step()
    evaluations: list[int] = []
    prepare = Hypers.prepare
    monkeypatch.setattr(Hypers, "prepare", lambda self, step, back: evaluations.append(step) or prepare(self, step))
    for _ in range(4):
        opt.step()
    assert set(evaluations) == {3}  # the step that thaws


def test_a_low_precision_copy_is_there_for_frozen_tensors_too() -> None:
    for shadow in ("float16", "bfloat16"):
        params = {"w": np.array([1.0, -2.5, 1e-9, 65519.0, 65520.0, 3.4e38, -1e30, -np.nan, 3.14159], np.float32)}
        opt = fu.SGD(params, lr=0.0, shadow=shadow)
        at_first = opt.shadow["w"].copy()
        opt.step({"w": np.zeros(9, np.float32)})
        assert_same_bits(at_first, opt.shadow["w"], shadow)
