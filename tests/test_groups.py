"""Groups, their helpers, and freezing: who moves, by which hyperparameters, and that the others stay bit for bit."""

from __future__ import annotations

import copy
import pickle
import re
import sys
from typing import Any

import numpy as np
import pytest
from cases import Case, arrays_of, assert_same_bits, by_backend, by_case, by_rule, fingerprint, random_arrays
from peers import peer

import fastupdate as fu
from fastupdate.arrays.tree import leaves
from fastupdate.groups import gradual_unfreezing, layerwise_decay, no_decay
from fastupdate.step.hypers import Group, Hypers

SHAPES = {"embed.w": (7, 5), "block.w": (6, 4), "block.b": (4,), "head.w": (3, 4), "head.b": (3,)}
LAYERS = ["embed.*", "block.*", "head.*"]


def tensors(seed: int, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    flat = random_arrays(seed, [int(np.prod(shape)) for shape in SHAPES.values()], dtype)
    return {name: a.reshape(SHAPES[name]) for name, a in zip(SHAPES, flat, strict=True)}


def steps(opt: fu.Optimizer, *seeds: int, leave_out: tuple[str, ...] = ()) -> None:
    for seed in seeds:
        opt.step({name: g for name, g in tensors(seed).items() if name not in leave_out})


def group_of(opt: fu.Optimizer, name: str) -> Group:
    return next(group for group in opt.groups if name in group["params"])


def only(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: arrays[name]}


# -- which tensors, which values --------------------------------------------------------------------------------------

PATTERNS: dict[str, tuple[Any, list[str]]] = {
    "glob": ("*.b", ["block.b", "head.b"]),
    "glob-one": ("head.w", ["head.w"]),
    "regex": (re.compile(r"^(embed|head)\.w$"), ["embed.w", "head.w"]),
    "regex-searches": (re.compile("ock"), ["block.w", "block.b"]),
    "several": (["embed.*", re.compile(r"d\.b")], ["embed.w", "head.b"]),
    "set": ({"*.b", "head.w"}, ["block.b", "head.w", "head.b"]),
    "generator": (lambda: (name for name in ("embed.w", "block.*")), ["embed.w", "block.w", "block.b"]),
    "nested": ([["embed.w"], [re.compile("^h"), ["block.b"]]], ["embed.w", "block.b", "head.w", "head.b"]),
    "mask": ({name: name.endswith("b") for name in SHAPES}, ["block.b", "head.b"]),
    "mask of branches": ({"head": True, "block": {"w": np.bool_(True), "b": False}}, ["block.w", "head.w", "head.b"]),
    "mask of a branch but one": ({"head": True, "head.b": False}, ["head.w"]),
    "mask of all": (True, list(SHAPES)),
}


@pytest.mark.parametrize(("pattern", "names"), PATTERNS.values(), ids=PATTERNS)
def test_a_pattern_chooses_tensors(pattern: Any, names: list[str]) -> None:
    made = pattern if callable(pattern) else lambda: pattern
    opt = fu.Adam(tensors(0), lr=0.1, groups=[{"params": made(), "lr": 0.5}])
    assert {name for group in opt.groups if group["lr"] == 0.5 for name in group["params"]} == set(names)
    assert {name for group in opt.groups for name in group["params"]} == set(SHAPES)
    assert opt.freeze(made()) == names


@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
@pytest.mark.parametrize("framework", ["numpy", pytest.param("torch", marks=pytest.mark.peer)])
def test_parameters_choose_themselves(framework: str, several: bool) -> None:
    """The very objects, as in torch's groups, not arrays that are equal to them or share their memory."""
    params: dict[str, Any] = tensors(0)
    if framework == "torch":
        params = {name: peer("torch").nn.Parameter(peer("torch").from_numpy(p)) for name, p in params.items()}
    names = ["block.b", "head.w"] if several else ["block.b"]
    chosen = [params[name] for name in names] if several else params["block.b"]
    opt = fu.Adam(params, lr=0.1, groups=[{"params": chosen, "lr": 0.5}])
    assert {name for group in opt.groups if group["lr"] == 0.5 for name in group["params"]} == set(names)
    assert opt.freeze(chosen) == names
    for other in (params["head.w"][:], tensors(0)["block.b"], [params["head.w"], params["head.b"][:]]):
        with pytest.raises(
            ValueError, match=r"\[adam\] pattern: expected one of the parameters themselves \(embed.w, "
        ):
            opt.freeze(other)


def test_a_mask_in_the_structure_of_the_parameters() -> None:
    params = {"layers": [(np.ones((2, 2)), np.ones(2)), (np.ones((2, 1)), np.ones(1))], "out": np.ones(3)}
    opt = fu.Adam(params)
    assert opt.freeze({"layers": [(True, False), (False, True)], "out": False}) == ["layers.0.0", "layers.1.1"]
    assert opt.freeze({"layers": [False, True]}) == ["layers.1.0", "layers.1.1"]
    assert fu.Adam([np.ones(1), np.ones(2)]).freeze([False, True]) == ["1"]


def test_a_mask_may_choose_nothing() -> None:
    opt = fu.Adam(tensors(0), lr=0.1, groups=[{"params": dict.fromkeys(SHAPES, False), "lr": 0.5}])
    assert [group["lr"] for group in opt.groups] == [0.1]
    assert opt.freeze(False) == []


def test_specs_merge_and_the_later_one_holds() -> None:
    specs = [{"params": "head.*", "lr": 0.5, "eps": 1e-3}, {"params": "*.b", "lr": 0.25, "betas": (0.5, 0.6)}]
    opt = fu.Adam(tensors(0), lr=0.1, groups=specs)
    values = {name: {key: group_of(opt, name)[key] for key in ("lr", "eps", "betas")} for name in SHAPES}
    assert values["embed.w"] == {"lr": 0.1, "eps": 1e-8, "betas": (0.9, 0.999)}
    assert values["head.w"] == {"lr": 0.5, "eps": 1e-3, "betas": (0.9, 0.999)}
    assert values["head.b"] == {"lr": 0.25, "eps": 1e-3, "betas": (0.5, 0.6)}


@by_case
def test_a_group_moves_as_an_optimizer_of_its_own(case: Case) -> None:
    own = {"lr": case.kwargs.get("lr", 0.01) / 4, "weight_decay": 0.2}
    together, apart = tensors(0), tensors(0)
    steps(case.make(together, groups=[{"params": "head.w", **own}]), 1, 2, 3)
    opts = {name: case.make(only(name, apart), **(own if name == "head.w" else {})) for name in SHAPES}
    for seed in (1, 2, 3):
        for name, opt in opts.items():
            opt.step(only(name, tensors(seed)))
    assert_same_bits(list(together.values()), list(apart.values()), "params")


@by_case
def test_lr_scale_multiplies_the_rate(case: Case) -> None:
    scaled, direct = tensors(0), tensors(0)
    lr = case.make(tensors(0)).groups[0]["lr"]
    steps(case.make(scaled, lr=lr * 4, groups=[{"params": "*", "lr_scale": 0.25}]), 1, 2)
    steps(case.make(direct, lr=lr), 1, 2)
    assert_same_bits(list(scaled.values()), list(direct.values()), "params")


def hypers_of_cases() -> list[Any]:
    from cases import CASES

    return [pytest.param(case, hyper, id=f"{case}-{hyper}") for case in CASES for hyper in rule_hypers(case)]


def rule_hypers(case: Case) -> list[str]:
    return [*fu.rules.get(case.rule).rule.hypers, "lr_scale", "l1", "clip_value"]


@pytest.mark.parametrize(("case", "hyper"), hypers_of_cases())
def test_any_hyperparameter_may_be_a_schedule(case: Case, hyper: str) -> None:
    base = {"l1": 0.01, "clip_value": 0.5}.get(hyper) or case.make(tensors(0)).groups[0][hyper]

    def schedule(step: int) -> float:
        return base * 0.9**step

    scheduled, by_hand = tensors(0), tensors(0)
    opt = case.make(by_hand, groups=[{"params": "*.b", hyper: base}])
    for k in range(3):
        group_of(opt, "head.b")[hyper] = schedule(k)
        opt.step(tensors(k + 1))
    steps(case.make(scheduled, groups=[{"params": "*.b", hyper: schedule}]), 1, 2, 3)
    assert_same_bits(list(scheduled.values()), list(by_hand.values()), "params")


MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no pattern": ({"groups": [{"lr": 0.1}]}, ValueError, r"groups\[0\]: expected a mapping with a 'params'"),
    "matches nothing": ({"groups": [{"params": "tail.*"}]}, ValueError, r"groups\[0\].*matches a parameter.*'tail.\*'"),
    "a number for a pattern": ({"groups": [{"params": 3}]}, TypeError, r"groups\[0\]\['params'\]: expected a glob"),
    "no mapping": ({"groups": ["head.*"]}, ValueError, r"groups\[0\]: expected a mapping with a 'params' pattern"),
    "one group": ({"groups": {"params": "head.*"}}, TypeError, "groups: expected a sequence of groups, received {'par"),
    "names": (
        {"groups": [{"params": "head.weight"}]},
        ValueError,
        r"groups\[0\]\['params'\]: expected a pattern that matches a parameter \(embed.w, .*head.b\), received",
    ),
    "unknown key": ({"groups": [{"params": "*", "speed": 1}]}, KeyError, "speed: no such hyperparameter"),
    "misspelt": (
        {"groups": [{"params": "*", "weight_decy": 1}]},
        KeyError,
        "weight_decy: no such hyperparameter, did you mean weight_decay[?] there are lr, .*, clip_value, .*, betas",
    ),
    "text": ({"groups": [{"params": "*", "lr": "0.1"}]}, TypeError, "lr: expected a finite number ≥ 0"),
    "negative": ({"groups": [{"params": "*", "lr": -0.1}]}, ValueError, "lr: expected a finite number ≥ 0"),
    "nan": ({"groups": [{"params": "*", "lr_scale": np.nan}]}, ValueError, "lr_scale: expected a finite number ≥ 0"),
    "beta of 1": ({"groups": [{"params": "*", "beta1": 1.0}]}, ValueError, r"beta1: expected a number in \[0, 1\)"),
    "one beta": ({"groups": [{"params": "*", "betas": (0.9,)}]}, TypeError, "betas: expected 2 numbers"),
    "average that is off": ({"groups": [{"params": "*", "ema_decay": 0.9}]}, ValueError, "groups: expected the option"),
    "scheduled thaw": ({"groups": [{"params": "*", "frozen_until": lambda t: t}]}, TypeError, "frozen_until: expected"),
    "bad schedule": ({"lr": lambda step: -1.0}, ValueError, "lr: expected a finite number ≥ 0, received -1.0"),
}


@pytest.mark.parametrize(("options", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_in_groups_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"\[(adam|fastupdate)\] {message}"):
        fu.Adam(tensors(0), **options)


SETTINGS: dict[str, tuple[str, Any, type[Exception]]] = {
    "nan": ("lr", np.nan, ValueError),
    "bool": ("lr", True, TypeError),
    "unknown": ("learning_rate", 0.1, KeyError),
    "names": ("params", ["w"], KeyError),
    "thaw date": ("frozen_until", 3, TypeError),
}


@pytest.mark.parametrize(("key", "value", "error"), SETTINGS.values(), ids=SETTINGS)
def test_setting_a_wrong_value_raises_and_changes_nothing(key: str, value: Any, error: type[Exception]) -> None:
    opt = fu.Adam(tensors(0))
    before = fingerprint(opt)
    with pytest.raises(error, match=rf"\[adam\] {key}"):
        opt.groups[0][key] = value
    assert fingerprint(opt) == before


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
    for structure, at in ((state, "m"), (state["m"], key), (opt.ema, key), (opt.shadow, key)):
        for change in (lambda s, k: s.__setitem__(k, np.ones(3)), lambda s, k: s.pop(k), lambda s, k: s.clear()):
            with pytest.raises(TypeError, match=r"\[adam\] (state|ema|shadow): expected arrays written in place"):
                change(structure, at)
    for copied in (copy.deepcopy(state["m"]), pickle.loads(pickle.dumps(state["m"])), copy.copy(state["m"])):
        assert type(copied) is framework
        copied[key] = None  # a copy is the user's own
    for item in opt.stepper.items:
        item.states["m"][...] = 3.0
    assert all((leaf == 3.0).all() for _, leaf in leaves(opt.state["m"]))


def test_a_schedule_that_goes_wrong_raises_in_its_step() -> None:
    opt = fu.Adam(tensors(0), lr=lambda step: [0.1, np.nan][step])
    steps(opt, 1)
    before = fingerprint(opt)
    with pytest.raises(ValueError, match=r"\[adam\] lr: expected a finite number ≥ 0, received nan"):
        steps(opt, 2)
    assert fingerprint(opt) == before


def fail(opt: fu.Optimizer) -> None:
    with pytest.raises(ValueError, match="grads"):
        opt.step({})


def resume(opt: fu.Optimizer) -> None:
    state = opt.state_dict()
    opt.step(tensors(1))
    opt.load_state_dict(state)


BETWEEN: dict[str, Any] = {
    "construction": lambda opt: None,
    "a step": lambda opt: opt.step(tensors(1)),
    "a bound step": lambda opt: (opt.bind(tensors(1)), opt.step(), opt.step()),
    "binding": lambda opt: opt.bind(tensors(1)),
    "a skipped step": lambda opt: opt.step({name: g * np.nan for name, g in tensors(1).items()}),
    "a failed step": fail,
    "a micro-batch": lambda opt: opt.accumulate(tensors(1)),
    "another start": lambda opt: (opt.bind(tensors(1)), opt.step(), opt.start_at(1)),
    "resuming": resume,
}


@pytest.mark.parametrize("kind", ["plateau", "function", "within"])
@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
@by_backend
def test_what_depends_on_more_than_the_step_is_asked_in_each(backend: str, between: Any, kind: str) -> None:
    """Whatever happened between, the step sees what the schedule says then."""
    plateau = fu.schedules.plateau(1.0, factor=0.5, patience=0)
    kinds = {"plateau": plateau, "function": lambda step: plateau(0), "within": fu.schedules.scale(plateau, 1.0)}
    policy = "skip" if between is BETWEEN["a skipped step"] else "propagate"
    opt = fu.SGD(tensors(0), lr=kinds[kind], nonfinite=policy, backend=backend)
    between(opt)
    for _ in range(2):
        plateau.update(1.0)
    waits = between is BETWEEN["a micro-batch"] or opt.stepper.bound.tree is not None
    assert opt.step(None if waits else tensors(1)).lr == 0.5


# -- helpers ----------------------------------------------------------------------------------------------------------


def test_layerwise_decay() -> None:
    opt = fu.Adam(tensors(0), groups=layerwise_decay(LAYERS, 0.5))
    assert {name: group_of(opt, name)["lr_scale"] for name in ("embed.w", "block.b", "head.w")} == {
        "embed.w": 0.25, "block.b": 0.5, "head.w": 1.0,
    }  # fmt: skip


def test_no_decay_is_for_vectors_and_scalars() -> None:
    params = {"w[0]*": np.ones((2, 2)), "norm": {"scale": np.ones(2), "gain": np.ones(())}, "b": [np.ones(3)]}
    opt = fu.AdamW(params, groups=no_decay(params))
    spared = {name for group in opt.groups if group["weight_decay"] == 0 for name in group["params"]}
    assert spared == {"norm.scale", "norm.gain", "b.0"}
    assert no_decay([np.ones((2, 2))]) == []


def test_no_decay_takes_names_literally() -> None:
    params = {"*": np.ones(3), "w": np.ones((2, 2))}
    opt = fu.AdamW(params, weight_decay=0.5, groups=no_decay(params))
    assert [group_of(opt, name)["weight_decay"] for name in params] == [0.0, 0.5]


def work(n: int) -> int:
    """How many functions are called to sort n vectors into groups, by what no_decay says and one by one."""
    params = {f"layer{k}.b": np.ones(1) for k in range(n)}
    ways = [no_decay(params), [{"params": [p]} for p in params.values()], [{"params": list(params)}]]
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    for way in ways:
        sys.setprofile(count)
        try:
            fu.groups.sort_into_groups("adam", params, way)
        finally:
            sys.setprofile(None)
    return calls


def test_sorting_into_groups_is_linear() -> None:
    assert work(1000) < 15 * work(100)


def test_helpers_combine() -> None:
    params = tensors(0)
    groups = layerwise_decay(LAYERS, 0.5) + gradual_unfreezing(LAYERS, 10) + no_decay(params)
    opt = fu.AdamW(params, weight_decay=0.1, groups=groups)
    keys = ("lr_scale", "frozen_until", "weight_decay")
    assert [group_of(opt, "block.b")[key] for key in keys] == [0.5, 10.0, 0.0]
    assert [group_of(opt, "embed.w")[key] for key in keys] == [0.25, 20.0, 0.1]


HELPER_MISTAKES = {
    "one pattern": (lambda: layerwise_decay("embed.*", 0.5), TypeError, r"\[layerwise_decay\] layers"),
    "no layers": (lambda: gradual_unfreezing([], 5), TypeError, r"\[gradual_unfreezing\] layers"),
    "growth": (lambda: layerwise_decay(LAYERS, 1.5), ValueError, r"decay: expected a number in \(0, 1\], received 1.5"),
    "zero": (lambda: layerwise_decay(LAYERS, 0), ValueError, "decay: expected"),
    "never": (lambda: gradual_unfreezing(LAYERS, 0), ValueError, "every: expected an integer ≥ 1, received 0"),
    "half a step": (lambda: gradual_unfreezing(LAYERS, 2.5), TypeError, "every: expected"),
}


@pytest.mark.parametrize(("call", "error", "message"), HELPER_MISTAKES.values(), ids=HELPER_MISTAKES)
def test_mistakes_in_helpers_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


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
    with pytest.raises(ValueError, match=r"\[adam\] pattern: expected no accumulated micro-batches \(step first\)"):
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
        with pytest.raises(ValueError, match=r"\[adam\] grads\['head.b'\]: expected an array, received none"):
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
