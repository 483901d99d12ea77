"""Attributes of an optimizer: what can be read, what can be set, and what is refused with the remedy."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from cases import exactly, fingerprint, switching_on
from named import tensors

import fastupdate as fu
from fastupdate.arrays.place import Place
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


def of_two_rules(**options: Any) -> fu.Partition:
    return fu.Partition(
        {"w": np.ones((2, 2)), "b": np.ones(2), "e": np.ones(2)},
        [("w", fu.SGD.with_(lr=0.5, momentum=0.9)), ("*", fu.AdamW.with_(lr=0.5))],
        groups=[{"params": "e", "weight_decay": 0.0}],
        **options,
    )


MAKERS: dict[str, Any] = {"adam": lambda: fu.Adam(tensors(0)), "partition": of_two_rules}
ASSIGNMENTS: dict[str, tuple[Any, str]] = {
    "groups": ([{"params": "*", "lr": 1.0}], "values set one by one, as opt.groups"),
    "params": ([np.ones(3)], "a new optimizer for other parameters, or theirs written in place"),
    "state": ({}, "(arrays|arrays of opt.parts.*) written in place, or load_state_dict"),
    "clip_norm": (1.0, "a value when the optimizer is made"),
    "monitor": (True, "a value when the optimizer is made"),
    "nonfinite": ("skip", "a value when the optimizer is made"),
    "amsgrad": (True, "a value when the optimizer is made"),
}


@pytest.mark.parametrize("name", ASSIGNMENTS)
@pytest.mark.parametrize("rule", MAKERS)
def test_an_assignment_without_effect_says_what_has_one(rule: str, name: str) -> None:
    value, remedy = ASSIGNMENTS[name]
    with pytest.raises(AttributeError, match=rf"\[{rule}\] {name}: expected {remedy}.*, received an assignment"):
        setattr(MAKERS[rule](), name, value)


OFF = {"ema_decay": 0.5, "optimism": 0.5, "optimism_norm": 1.0, "peak_lr": 0.5}


@pytest.mark.parametrize("name", OFF)
def test_a_number_of_an_option_that_is_off_is_refused_as_it_is_by_the_constructor(name: str) -> None:
    opt, default = fu.Adam(tensors(0)), fu.Adam(tensors(0)).groups[0][name]
    acts = (
        lambda value: setattr(opt, name, value),
        lambda value: opt.groups[0].update({name: value}),
        lambda value: setattr(of_two_rules(), name, value),
    )
    for value in (OFF[name], np.float32(OFF[name]), lambda t: OFF[name]):
        for act in acts:
            with pytest.raises(ValueError, match=rf"\[.*\] {name}: expected the option {name}, .* without it"):
                act(value)
    for act in acts:
        act(default)
    with pytest.raises(ValueError, match=f"groups: expected the option {name}, for a group sets it"):
        fu.Adam(tensors(0), groups=[{"params": "*", name: OFF[name]}])
    assert opt.groups[0][name] == default


def test_a_state_with_a_number_of_an_option_that_is_off_is_not_taken() -> None:
    corrected, plain = fu.Adam(tensors(0), decay="corrected", peak_lr=0.5), fu.Adam(tensors(0))
    with pytest.raises(ValueError, match=r"\['peak_lr'\]: expected no such entry, received one \(strict=False takes"):
        plain.load_state_dict(corrected.state_dict())
    assert plain.load_state_dict(corrected.state_dict(), strict=False).unexpected_keys == ["groups[0].peak_lr"]
    assert plain.peak_lr == np.inf


# What a rule's states and equations are made by, so that it stays what it was: rule, hyperparameter, and the number.
SETTLED = [
    (rule, hyper, number)
    for rule in map(fu.rules.get, fu.rules.names())
    for number, hypers in ((0.0, rule.rule.flag_hypers.values()), (3.0, rule.rule.made_by))
    for hyper in hypers
]


@pytest.mark.parametrize("face", ["alone", "loaded", "partition"])
@pytest.mark.parametrize(("rule", "hyper", "number"), SETTLED, ids=[f"{r.rule.name}-{h}" for r, h, _ in SETTLED])
def test_what_states_and_equations_are_made_by_is_refused_when_it_is_set(
    rule: Any, hyper: str, number: float, face: str
) -> None:
    alias = next((alias for alias, names in rule.rule.aliases.items() if hyper in names), hyper)

    def named(value: Any) -> tuple[str, Any]:
        """The value under the name that it is given by, beside those that are given together with it."""
        parts = [value if name == hyper else rule.rule.defaults[name] for name in rule.rule.aliases.get(alias, ())]
        return alias, tuple(parts) if parts else value

    params, grads = ({name: np.ones((2, 3)) for name in ("w", "head.w")} for _ in range(2))
    recipe = rule.with_(groups=[{"params": "head.*", "lr": 0.5}], **dict([named(number)]))
    opt = fu.Partition(params, [("*", recipe)]) if face == "partition" else recipe(params)
    opt.step(grads)
    if face == "loaded":
        opt = pickle.loads(pickle.dumps(opt))
    other = switching_on(rule.rule.hypers[hyper])
    before = exactly(opt.state_dict())
    acts = (
        lambda value: setattr(opt, *named(value)),
        lambda value: opt.groups[-1].update([named(value)]),
        lambda value: opt.groups[-1].update({hyper: value}),
    )
    for act in acts:
        for value in (other, np.float32(other), fu.schedules.constant(other), lambda step: other):
            with pytest.raises(ValueError, match=rf"\] {hyper}: expected {number}, as when the optimizer was made"):
                act(value)
        with pytest.raises(TypeError, match=rf"\] {hyper}: expected a"):
            act("0")
        act(number)
    assert exactly(opt.state_dict()) == before
    assert opt.step(grads).step == 2


def test_a_state_with_a_number_that_there_is_no_array_for_is_not_taken() -> None:
    opt, other = fu.SGD(tensors(0)), fu.SGD(tensors(0), momentum=0.9)
    other.step(tensors(1))
    assert "groups[0].momentum" in opt.load_state_dict(other.state_dict(), strict=False).unexpected_keys
    assert (opt.momentum, opt.step(tensors(2)).step) == (0.0, 2)


class Own(fu.SGD):
    """A user's, with an attribute of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.history: list[float] = []


def test_classes_of_users_have_whatever_attributes_they_want() -> None:
    opt = Own([np.ones(3)], lr=0.1)
    opt.label = "first"  # type: ignore[attr-defined]
    opt._hidden = fu.SGD([np.ones(3)])._hidden = 1  # type: ignore[attr-defined]
    opt.lr = 0.25
    assert (opt.history, opt.groups[0]["lr"], vars(opt).keys()) == (
        [],
        0.25,
        {"stepper", "_last", "history", "label", "_hidden"},
    )


def a_report(**options: Any) -> fu.Report:
    return fu.SGD([np.ones(3)], **options).step([np.ones(3)])


# What is assigned to, the name and the value, and the message.
UNKNOWN: dict[str, tuple[Any, str, Any, str]] = {
    "another word": (MAKERS["adam"], "learning_rate", 2.0, r"\[adam\] learning_rate: .* did you mean lr\?"),
    "a slip": (MAKERS["adam"], "weight_decy", 2.0, r"\[adam\] weight_decy: .* did you mean weight_decay\?"),
    "nothing like it": (MAKERS["adam"], "foo", 1, r"\[adam\] foo: no such attribute; there are amsgrad, backend, "),
    "a partition": (of_two_rules, "weight_decy", 2.0, r"\[partition\] weight_decy: .* did you mean weight_decay\?"),
    "of no rule": (of_two_rules, "nesterov_", 1, r"\[partition\] nesterov_: no such attribute, did you mean nesterov"),
    "a group": (lambda: MAKERS["adam"]().groups[0], "lr", 0.5, r"\[adam\] lr: expected group\['lr'\] = x"),
    "a monitor": (fu.Monitor, "evry", 2, r"\[monitor\] evry: no such attribute, did you mean every\?"),
    "a scale": (fu.LossScale, "vlaue", 2, r"\[LossScale\] vlaue: no such attribute, did you mean value\?"),
    "a report": (a_report, "lr", 2, r"\[report\] lr: expected no assignment, .* \(opt.lr = x\)"),
    "one by Python": (lambda: a_report(clip_norm=1.0), "lr", 2, r"\[report\] lr: expected no assignment"),
    "a figure": (a_report, "grad_nrom", 2, r"\[report\] grad_nrom: no such figure, did you mean grad_norm\?"),
    "a copy": (lambda: copy.deepcopy(a_report()), "lr", 2, r"\[report\] lr: expected no assignment"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_assignment_to_what_is_not_there_says_what_is(case: str) -> None:
    make, name, value, message = UNKNOWN[case]
    with pytest.raises(AttributeError, match=message):
        setattr(make(), name, value)


def test_numbers_of_monitors_and_scales_are_checked_when_they_are_set() -> None:
    monitor, scale = fu.Monitor(), fu.LossScale()
    monitor.every, scale.value = 5, np.float64(8.0)
    for owner, name, value in ((monitor, "every", 0), (scale, "value", "8"), (scale, "value", 0.0)):
        with pytest.raises((TypeError, ValueError), match=rf"{name}: expected"):
            setattr(owner, name, value)
    assert (monitor.every, scale.value, repr(scale)) == (5, 8.0, repr(fu.LossScale(8)))


def test_attributes_of_a_partition_are_those_that_its_rules_share() -> None:
    opt = of_two_rules(clip_norm=2.0)
    assert (opt.lr, opt.betas, opt.momentum, opt.clip_norm, opt.report) == (0.5, (0.9, 0.999), 0.9, 2.0, None)
    with pytest.raises(ValueError, match=r"\[partition\] weight_decay: expected groups that agree .*, received 0.0, 0"):
        opt.weight_decay  # noqa: B018
    schedule = fu.schedules.cosine(0.3, 10)
    for value in (0.0, np.float32(0.125), schedule):
        opt.lr = value
        assert [group["lr"] for group in opt.groups] == [value] * 3
    opt.betas = (0.5, 0.25)
    assert [group.get("beta2") for group in opt.groups] == [None, 0.25, 0.25]
    before = [dict(group) for group in opt.groups]
    with pytest.raises(ValueError, match=r"\[.*\] lr: expected"):
        opt.lr = -1.0
    assert [dict(group) for group in opt.groups] == before
    for other in (pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt)):
        assert (other.lr(3), other.betas) == (schedule(3), (0.5, 0.25))


def test_an_option_of_one_rule_is_read_and_set_there() -> None:
    rules = [("w", fu.SGD.with_(decay="corrected", peak_lr=1.0)), ("*", fu.AdamW)]
    opt = fu.Partition({"w": np.ones(2), "b": np.ones(2)}, rules)
    assert opt.peak_lr == 1.0
    opt.peak_lr = 0.5
    assert [group["peak_lr"] for group in opt.groups] == [0.5, np.inf]


def test_a_partition_goes_by_the_rate_that_was_set() -> None:
    opt = of_two_rules()
    opt.lr = 0.0
    opt.weight_decay = 0.0
    assert opt.step({"w": np.ones((2, 2)), "b": np.ones(2), "e": np.ones(2)}) is opt.report
    assert [p.tolist() for p in opt.params.values()] == [[[1.0, 1.0], [1.0, 1.0]], [1.0, 1.0], [1.0, 1.0]]


def test_a_partition_without_such_a_hyperparameter_says_so() -> None:
    assert of_two_rules().betas  # partitions know the name from now on
    opt = fu.Partition([np.ones(3)], [("*", fu.SGD)])
    assert not hasattr(opt, "betas")
    with pytest.raises(AttributeError, match=r"\[partition\] betas: expected a rule that has such a hyperparameter"):
        opt.betas = (0.9, 0.99)
    with pytest.raises(AttributeError, match=r"\[partition\] state: expected opt.parts\[k\].state"):
        opt.state  # noqa: B018


# -- words of torch's -------------------------------------------------------------------------------------------------

TORCH: dict[str, tuple[Any, str]] = {
    "zero_grad": (lambda opt: opt.zero_grad(), "zero_grad: expected the option zero_grads=True, or nothing"),
    "add_param_group": (lambda opt: opt.add_param_group({}), "add_param_group: expected a new optimizer"),
    "param_groups": (lambda opt: opt.param_groups[0], "param_groups: expected opt.groups"),
    "setting groups": (lambda opt: setattr(opt, "param_groups", []), "param_groups: expected opt.groups"),
    "defaults": (lambda opt: opt.defaults["lr"], "defaults: expected opt.groups"),
    "a closure": (lambda opt: opt.step(lambda: 1.0), r"grads: expected gradients \(a closure is for .*fu.torch"),
    "a state": (
        lambda opt: opt.load_state_dict({"state": {}, "param_groups": []}),
        "state_dict: expected a state of fu.(Adam|Partition|SGD), received one of torch's .*fu.torch",
    ),
}


@pytest.mark.parametrize("word", TORCH)
@pytest.mark.parametrize("rule", [*MAKERS, "sgd"])
def test_words_of_torchs_name_what_there_is_instead(rule: str, word: str) -> None:
    act, message = TORCH[word]
    opt = MAKERS[rule]() if rule in MAKERS else fu.SGD(np.ones(3))
    with pytest.raises((AttributeError, TypeError, ValueError), match=rf"\[({rule}|sgd)\] {message}"):
        act(opt)
    assert not hasattr(opt, "param_groups")
    assert not hasattr(type(opt), "zero_grad")


# -- remedies ---------------------------------------------------------------------------------------------------------


class Model:
    """What frameworks hold parameters in."""

    def parameters(self) -> list[np.ndarray]:
        return [np.ones(3)]


PAIRS = r"\[partition\] rules: expected \(pattern, rule\) pairs, as \[\('\*', fu.AdamW\)\], received "
REMEDIES: dict[str, tuple[Any, str]] = {
    "a model": (lambda: fu.Adam(Model()), r"\[adam\] params: expected model.parameters\(\) or .*, received Model"),
    "a model's vectors": (
        lambda: fu.groups.no_decay(Model()),
        r"\[no_decay\] params: expected model.parameters\(\), or other arrays, received Model",
    ),
    "a rule alone": (lambda: fu.Partition([np.ones(3)], fu.AdamW), PAIRS + "<class"),  # type: ignore[arg-type]
    "rules by pattern": (lambda: fu.Partition([np.ones(3)], {"*": fu.SGD}), PAIRS + "{"),  # type: ignore[arg-type]
    "a number of states": (
        lambda: fu.Adam([np.ones(3)], state=3),  # type: ignore[arg-type]
        r"\[adam\] state: expected arrays by name, or a sequence of them, received int",
    ),
    "a function as a rule": (
        lambda: fu.rule(a_report),
        r"\[rule\] expected a class \(docs/own_rules.md\), received <f",
    ),  # type: ignore[arg-type]
    "an option's word": (lambda: fu.Adam([np.ones(3)], nonfinite="skpi"), "'skpi'; did you mean 'skip'"),
    "of several": (lambda: fu.Adam([np.ones(3)], decay="decouple"), "did you mean 'decoupled'"),
    "a backend": (lambda: fu.Adam([np.ones(3)], backend="nativ"), "did you mean 'native'"),
    "a keyword": (lambda: fu.Adam([np.ones(3)], learning_rate=0.1), "learning_rate: .*did you mean lr"),
    "a number for a 0-d array": (lambda: fu.SGD([np.zeros(())]).step([1.0]), r"np.asarray\(x, p.dtype\)"),
    "a truth as loss": (lambda: fu.Monitor()(a_report(monitor=True), True), r"\[monitor\] loss: expected a number"),
    "text as loss": (lambda: fu.Monitor()(a_report(monitor=True), "1.0"), r"\[monitor\] loss: expected a number"),
    "text as a size": (
        lambda: fu.monitoring.noise_scale([1.0], [1.0], "2", 4),  # type: ignore[arg-type]
        r"\[noise_scale\] micro_batch: expected a finite number, received '2'",
    ),
    "no average": (
        lambda: fu.Adam([np.ones(3)]).load_state_dict(fu.Adam([np.ones(3)], shadow="float16").state_dict()),
        r"shadow.0'\]: expected no such entry, received one \(strict=False takes what both have\)",
    ),
}


@pytest.mark.parametrize("case", REMEDIES)
def test_a_message_names_the_remedy(case: str) -> None:
    act, message = REMEDIES[case]
    with pytest.raises((TypeError, ValueError), match=message):
        act()


# -- what is looked at once -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["pairs", "groups"])
def test_pairs_and_groups_are_read_once_and_params_in_every_step(way: str) -> None:
    first, other = np.ones(2), np.full(2, 7.0)
    given: list[Any] = [("w", first)] if way == "pairs" else [{"params": [first]}]
    opt = fu.SGD(given, lr=1.0)
    grads = {"w": np.ones(2)} if way == "pairs" else [np.ones(2)]
    if way == "pairs":
        given[0] = ("w", other)
    else:
        given[0]["params"][0] = other
    opt.step(grads)
    assert (first.tolist(), other.tolist()) == ([0.0, 0.0], [7.0, 7.0])
    opt.params["w" if way == "pairs" else 0] = other
    with pytest.raises(ValueError, match="expected the array that the optimizer was made for"):
        opt.step(grads)


def test_bound_arrays_stay_bound_whatever_becomes_of_their_list() -> None:
    p, grads = np.zeros(2), [np.ones(2)]
    opt = fu.SGD([p], lr=1.0)
    opt.bind(grads)
    grads[0] = np.full(2, 5.0)
    opt.step()
    assert p.tolist() == [-1.0, -1.0]
    opt.bind(grads)
    opt.step()
    assert p.tolist() == [-6.0, -6.0]


@pytest.mark.parametrize("framework", [dict, list])
def test_live_arrays_are_written_not_exchanged(framework: Any) -> None:
    tree = {"a": {"w": np.ones(3)}, "b": [np.ones(2), (np.ones(1),)]}
    params = tree if framework is dict else [np.ones(3), np.ones(2)]
    kept: dict[str, Any] = {"ema_decay": 0.9, "shadow": "float16", "lookahead": (2, 0.5)}
    opt, parted = fu.Adam(params, **kept), fu.Partition(copy.deepcopy(params), [("*", fu.Adam)], **kept)
    state, key = opt.state, "a" if framework is dict else 0
    copies = [(getattr(each, name), key) for each in (opt, parted) for name in ("ema", "shadow", "slow")]
    for structure, at in ((state, "m"), (state, "new"), (state["m"], key), *copies):
        for change in (lambda s, k: s.__setitem__(k, np.ones(3)), lambda s, k: s.pop(k), lambda s, k: s.clear()):
            with pytest.raises(TypeError, match=r"\] (state|ema|shadow|slow): expected arrays written in place"):
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
    assert all((leaf == 3.0).all() for _, leaf in leaves(opt.state["m"], Place("adam", "state")))
