"""Groups, patterns and their helpers: which tensors move by which hyperparameters."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pytest
from cases import EVERY_CASE, EVERY_PHASED_CASE, Case, assert_same_bits, by_backend, by_case, fingerprint
from named import LAYERS, SHAPES, group_of, only, steps, tensors
from peers import peer

import fastupdate as fu
from fastupdate.groups import gradual_unfreezing, layerwise_decay, no_decay

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


SWITCHED = [  # by a hyperparameter that is not 0
    (case, hyper)
    for case in EVERY_CASE + EVERY_PHASED_CASE
    for flag, hyper in fu.rules.get(case.rule).rule.flag_hypers.items()
    if case.make([np.ones((1, 1))]).stepper.flags[flag]
]


@pytest.mark.parametrize(("case", "hyper"), SWITCHED, ids=[f"{case}-{hyper}" for case, hyper in SWITCHED])
def test_a_group_that_leaves_something_off_moves_as_where_nobody_has_it_on(case: Case, hyper: str) -> None:
    names, off = ["block.w", "head.w"], {hyper: 0.0}
    together, alone, on = ({name: tensors(0, np.float64)[name] for name in names} for _ in range(3))
    opts = [
        case.make(together, groups=[{"params": "head.w", **off}]),
        case.make(alone, groups=[{"params": "*", **off}]),
        case.make(on),
    ]
    for seed in (1, 2, 3):
        for opt in opts:
            opt.step({name: tensors(seed, np.float64)[name] for name in names})
    np.testing.assert_allclose(together["head.w"], alone["head.w"], rtol=1e-12)
    assert_same_bits(together["block.w"], on["block.w"], "the other group")


@by_backend
def test_a_group_that_names_no_power_goes_by_the_root_beside_one_that_does(backend: str) -> None:
    params, alone = [np.linspace(1, 2, 5), np.linspace(1, 2, 5)], np.linspace(1, 2, 5)
    groups = [{"params": params[:1]}, {"params": params[1:], "learning_rate_power": -0.25}]
    together, apart = fu.FTRL(groups, lr=0.1, backend=backend), fu.FTRL([alone], lr=0.1, backend=backend)
    for k in range(3):
        g = np.linspace(-1, 3 + k, 5)
        together.step([g, g])
        apart.step([g])
    np.testing.assert_allclose(params[0], alone, rtol=1e-14)
    assert (np.abs(params[1] - alone) > 1e-3).any()


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
    for way in (lambda p: p, lambda p: p.items(), lambda p: iter(p.items()), lambda p: [{"params": p}]):
        assert no_decay(way(params)) == no_decay(params)


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


NESTINGS = {
    "lists of pairs and nothing": lambda a: [(a[0], a[1]), (), (a[2], a[3]), ()],
    "a list beside an array": lambda a: [[a[0]], a[1], [a[2], [a[3]]]],
    "dicts in lists": lambda a: [{"w": a[0], "b": a[1]}, {"w": a[2], "b": a[3]}, {}, {}],
}


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("nest", NESTINGS.values(), ids=NESTINGS)
def test_nestings_that_have_as_many_entries_as_arrays(nest: Any, bound: bool) -> None:
    params, grads = ([np.full(3, k + 1.0) for k in range(4)] for _ in range(2))
    opt = fu.SGD(nest(params), lr=0.5)
    if bound:
        opt.bind(nest(grads))
    opt.step(None if bound else nest(grads))
    assert [p[0] for p in params] == [0.5, 1.0, 1.5, 2.0]


def test_everything_frozen_with_units() -> None:
    params = [np.ones((3, 3)), np.ones(3)]
    opt = fu.SGD(params, lr=1.0, clip_unit_norm=0.1)
    opt.freeze("*")
    opt.step([None, None])
    assert all((p == 1).all() for p in params)
    opt.unfreeze("*")
    opt.step([np.ones((3, 3)), np.ones(3)])
    assert all((p < 1).all() for p in params)


def test_a_group_is_found_by_its_tensors() -> None:
    params = tensors(0)
    opt = fu.Adam(params, lr=0.1, groups=[{"params": "head.*", "lr": 0.5}])
    assert opt.group("head.*") is opt.group(params["head.b"]) is opt.group({"head": True}) is opt.groups[1]
    opt.group(re.compile("^head"))["lr"] = 0.25
    assert opt.groups[1]["lr"] == 0.25
    words = r"\[adam\] pattern: expected a pattern that finds tensors of one group, received one for those of "
    with pytest.raises(ValueError, match=words + "'embed.w', 'head.w'"):
        opt.group("*.w")
    with pytest.raises(ValueError, match=words + "none"):
        opt.group(False)
    with pytest.raises(ValueError, match="expected a pattern that matches a parameter"):
        opt.group("tail")
