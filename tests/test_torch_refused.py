"""What fastupdate.torch refuses, by name: arguments, tensors, values of groups; and nothing has changed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from cases import assert_same_bits
from peers import file_needs, peer
from torch_cases import arrays_of, hand_over, parameters, tensors, torch

import fastupdate as fu

pytestmark = pytest.mark.peer
file_needs("torch")


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


def _one(*shape: int, **kind: Any) -> Any:
    return torch.nn.Parameter(torch.ones(*shape or (2, 2), **kind))


def _model() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(2, 2))


PARAMETERS = r"\[adamw\] params: expected model.parameters\(\) or another sequence of tensors, received "
REFUSED: dict[str, Any] = {
    "capturable": (
        lambda: fu.torch.AdamW([_one()], capturable=True),
        ValueError,
        r"\[adamw\] capturable: expected False",
    ),
    "differentiable": (
        lambda: fu.torch.SGD([_one()], differentiable=True),
        ValueError,
        r"\[sgd\] differentiable: expected",
    ),
    "lr": (lambda: fu.torch.AdamW([_one()], lr=-1.0), ValueError, r"\[adamw\] lr: expected .*, received -1"),
    "lr in a group": (
        lambda: fu.torch.AdamW([{"params": [_one()], "lr": -1.0}]),
        ValueError,
        r"\[adamw\] lr: expected",
    ),
    "an option in a group": (
        lambda: fu.torch.AdamW([{"params": [_one()], "clip_norm": 0.1}]),
        ValueError,
        r"\[adamw\] clip_norm: expected an argument of AdamW, for all groups, received 0.1 for a group",
    ),
    "betas": (lambda: fu.torch.AdamW([_one()], betas=(1.0, 0.9)), ValueError, r"\[adamw\] beta1: expected"),
    "one beta": (lambda: fu.torch.AdamW([_one()], betas=0.9), TypeError, r"\[adamw\] betas: expected 2 numbers"),
    "nesterov": (lambda: fu.torch.SGD([_one()], nesterov=True), ValueError, r"\[sgd\] nesterov: expected momentum > 0"),
    **{
        f"{name} that is no switch": (
            lambda name=name: fu.torch.Adam([_one()], **{name: "no"}),
            ValueError,
            rf"\[adam\] {name}: expected one of False, True, received 'no'",
        )
        for name in ("amsgrad", "maximize", "decoupled_weight_decay", "monitor")
    },
    "a flag in a group": (
        lambda: fu.torch.SGD([{"params": [_one()], "nesterov": "no"}], momentum=0.9),
        ValueError,
        r"\[sgd\] nesterov: expected one of False, True, received 'no'",
    ),
    "a scale of Muon's": (
        lambda: fu.torch.Muon([_one()], adjust_lr_fn="rms_to_rms"),
        ValueError,
        r"\[muon\] adjust_lr_fn: expected None \(or 'original', or 'match_rms_adamw', .*\), received 'rms_to_rms'",
    ),
    "two scales of Muon's": (
        lambda: fu.torch.Muon([_one()], adjust_lr_fn="original", match_rms_adamw=True),
        ValueError,
        r"\[muon\] adjust_lr_fn: expected None or 'match_rms_adamw', for match_rms_adamw is True, received 'original'",
    ),
    "two of Muon's coefficients": (
        lambda: fu.torch.Muon([_one()], ns_coefficients=(3.0, -3.2)),
        TypeError,
        r"\[muon\] ns_coefficients: expected 3 numbers, received \(3.0, -3.2\)",
    ),
    "one velocity of AggMo's": (
        lambda: fu.torch.AggMo([_one()], betas=(0.9,)),
        TypeError,
        r"\[aggmo\] betas: expected 2 to 5 numbers, received \(0.9,\)",
    ),
    "no velocities of AggMo's": (
        lambda: fu.torch.AggMo([_one()], betas=0.9),
        TypeError,
        r"\[aggmo\] betas: expected 2 to 5 numbers, received 0.9",
    ),
    "a tensor of no axes for betas": (
        lambda: fu.torch.Adam([_one()], betas=torch.tensor(0.9)),
        TypeError,
        r"\[adam\] betas: expected 2 numbers, received tensor\(0.9",
    ),
    "schedule": (lambda: fu.torch.SGD([_one()], lr=lambda t: 0.1), TypeError, r"\[sgd\] lr: expected a number"),
    "groups": (lambda: fu.torch.SGD([_one()], groups=[]), ValueError, r"\[sgd\] groups: expected parameter groups"),
    "unknown": (lambda: fu.torch.SGD([_one()], clip_nrm=1), TypeError, r"\[sgd\] clip_nrm: no such option"),
    "decoupled": (
        lambda: fu.torch.Adam([_one()], decoupled_weight_decay=True, decay="independent"),
        ValueError,
        r"\[adam\] decay: expected None, for decoupled_weight_decay is True, received 'independent'",
    ),
    "no tensors": (lambda: fu.torch.SGD([]), ValueError, "empty parameter list"),
    "a model": (lambda: fu.torch.AdamW(_model()), TypeError, PARAMETERS + "Sequential"),
    "a model of one layer": (lambda: fu.torch.AdamW(_model()[0]), TypeError, PARAMETERS + "Linear"),
    "its method": (lambda: fu.torch.AdamW(_model().parameters), TypeError, PARAMETERS + "method"),
    "nothing": (lambda: fu.torch.AdamW(None), TypeError, PARAMETERS + "NoneType"),
    "a model in a group": (lambda: fu.torch.AdamW([{"params": _model()}]), TypeError, PARAMETERS + "Sequential"),
    "a model for two rules": (
        lambda: fu.torch.Muon(_model(), others=fu.AdamW),
        TypeError,
        r"\[muon\] params: .*model.p",
    ),
    "parameters of a batch's pieces": (
        lambda: fu.torch.Pieces(_model().parameters(), 2),
        TypeError,
        r"\[pieces\] model: expected a model, a torch.nn.Module, received generator",
    ),
    "parameters within backward": (
        lambda: fu.torch.in_backward(_model().parameters(), fu.torch.SGD([_one()])),
        TypeError,
        r"\[sgd\] model: expected a model, a torch.nn.Module, received generator",
    ),
    "an optimizer of arrays within backward": (
        lambda: fu.torch.in_backward(_model(), fu.SGD([_one()])),
        TypeError,
        r"\[in_backward\] optimizer: expected an optimizer of one rule, of fu.torch, received fastupdate's SGD",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_refused_by_name(name: str) -> None:
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        make()


def _sparse(p: Any) -> Any:
    return torch.eye(2).to_sparse()


def _one_fake() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode().from_tensor(_one())


WRONG_TENSORS: dict[str, Any] = {
    "complex": (
        lambda: _one(dtype=torch.complex64),
        None,
        TypeError,
        r"params\[0\]\[0\]: expected float32 or float64, rec",
    ),
    "half": (lambda: _one(dtype=torch.float16), None, TypeError, r"params\[0\]\[0\]: expected float32 or float64, rec"),
    "another device": (
        lambda: _one(device="meta"),
        None,
        TypeError,
        r"params\[0\]\[0\]: expected a tensor on the CPU \(fu.AdamW takes those on NVIDIA GPUs\), received one on meta",
    ),
    "fake": (_one_fake, None, TypeError, r"params\[0\]\[0\]: cannot share the memory of FakeTensor"),
    "sparse gradient": (_one, _sparse, ValueError, r"grads\[0\]\[0\]: expected a sparse tensor of rows"),
    "broadcast": (
        lambda: torch.ones(1, 2).expand(2, 2).requires_grad_(),
        None,
        ValueError,
        r"params\[0\]\[0\]: expected el",
    ),
}


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_tensors_that_cannot_be_moved_are_refused_by_name(name: str) -> None:
    make, grad, error, message = WRONG_TENSORS[name]
    p = make()
    optimizer = fu.torch.AdamW([p])
    p.grad = torch.ones_like(p, memory_format=torch.contiguous_format) if grad is None else grad(p)
    with pytest.raises(error, match=rf"\[adamw\] {message}"):
        optimizer.step()
    assert not optimizer.state_dict()["state"]


def test_parameters_that_share_memory_are_refused() -> None:
    p, q = _one(), _one()
    q.data = p.data
    optimizer = fu.torch.AdamW([p, q])
    p.grad, q.grad = torch.ones(2, 2), torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"memory apart from params"):
        optimizer.step()


SEVERAL = {"a tensor of two": lambda: torch.ones(2), "an array of two": lambda: np.ones(2)}
WRONG_IN_A_GROUP: list[tuple[str, Any]] = [
    *(("lr", wrong) for wrong in (-1.0, float("nan"), "x", None, [1.0], *SEVERAL)),
    *(("weight_decay", wrong) for wrong in SEVERAL),
    *(("betas", wrong) for wrong in ((2.0, 0.9), None, "a tensor of two")),
    *(("capturable", True), ("maximize", "yes")),
]


@pytest.mark.parametrize(("key", "wrong"), WRONG_IN_A_GROUP)
@pytest.mark.parametrize("rule", ["AdamW", "Prodigy"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_a_wrong_value_in_a_group_is_refused_as_long_as_it_is_there(
    key: str, wrong: Any, rule: str, first: bool
) -> None:
    params = parameters(1)
    optimizer = getattr(fu.torch, rule)(params)
    hand_over(params, tensors(2))
    None if first else optimizer.step()
    before = copy.deepcopy(params)
    right, optimizer.param_groups[0][key] = optimizer.param_groups[0][key], SEVERAL.get(str(wrong), lambda: wrong)()
    named = {"betas": "beta[12]"}.get(key, key)
    for _ in range(2):
        with pytest.raises((TypeError, ValueError), match=rf"\[{rule.lower()}\] ({key}|{named}): expected"):
            optimizer.step()
    assert_same_bits(arrays_of(params), arrays_of(before), "parameters")
    optimizer.param_groups[0][key] = right
    optimizer.step()
    assert optimizer.state[params[0]]["step"] == 2 - first


def test_factors_that_were_not_made_for_sides_so_long_are_refused_in_the_step() -> None:
    p = torch.nn.Parameter(torch.ones(3, 3))
    p.grad = torch.ones(3, 3)
    optimizer = fu.torch.SOAP([p], max_precondition_dim=2)
    optimizer.step()
    before = p.detach().clone()
    optimizer.param_groups[0]["max_precondition_dim"] = 5
    for _ in range(2):
        with pytest.raises(ValueError, match=r"state\['left'\].*: expected shape \(3, 3\), received shape \(0, 0\)"):
            optimizer.step()
    assert torch.equal(p, before)
    optimizer.param_groups[0]["max_precondition_dim"] = 1  # no side is as long as that either
    optimizer.step()


def test_after_an_error_nothing_has_changed() -> None:
    params = parameters(1)
    optimizer = fu.torch.AdamW(params, nonfinite="raise", ema_decay=0.9)
    for bad_first in (True, False):
        grads = tensors(2)
        for wrong in ([float("nan")] if bad_first else []) + [None, float("inf")]:
            before = copy.deepcopy((params, optimizer.state_dict()))
            hand_over(params, grads)
            if wrong is None:
                optimizer.step()
                continue
            params[4].grad[1, 1, 1, 1] = wrong
            with pytest.raises(FloatingPointError, match=r"\[adamw\] grads\[0\]\[4\]: expected finite values"):
                optimizer.step()
            assert_same_bits(arrays_of(params), arrays_of(before[0]), "parameters")
            torch.testing.assert_close(optimizer.state_dict(), before[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["Adam", "NAdam", "RAdam"])
def test_groups_say_whether_decay_is_decoupled(name: str) -> None:
    """As torch's do, in the middle of a run, and with the bits of the option; what groups differ in is named."""
    given = {"lr": 0.01, "weight_decay": 0.3}
    params = [parameters(1) for _ in range(3)]
    cls = getattr(fu.torch, name)
    ours, theirs = (c(p, **given) for c, p in ((cls, params[0]), (getattr(torch.optim, name), params[1])))
    option = cls(params[2], **given, decay="decoupled")
    for k in range(6):
        if k == 3:
            ours.param_groups[0]["decoupled_weight_decay"] = theirs.param_groups[0]["decoupled_weight_decay"] = True
            option.load_state_dict({**ours.state_dict(), "param_groups": option.state_dict()["param_groups"]})
            for p, q in zip(params[2], params[0], strict=True):
                p.data.copy_(q.data)
        for own, optimizer in zip(params, (ours, theirs, option), strict=True):
            hand_over(own, tensors(2 + k))
            optimizer.step()
    assert_same_bits(arrays_of(params[2]), arrays_of(params[0]), "parameters")
    for p, q in zip(params[0], params[1], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    torch.optim.RAdam([_one()]).load_state_dict(fu.torch.RAdam([_one()], decoupled_weight_decay=True).state_dict())
    mixed = cls([{"params": [_one()]}, {"params": [_one()], "decoupled_weight_decay": True}], **given)
    for group in mixed.param_groups:
        group["params"][0].grad = torch.ones_like(group["params"][0])
    with pytest.raises(ValueError, match=r"param_groups\[1\]\['decoupled_weight_decay'\]: expected False"):
        mixed.step()


OTHER_RULES = {
    "AdamW": "Adagrad", "Adamax": "AdamW", "NAdam": "SGD", "Muon": "Adam", "RMSprop": "SGD", "Lion": "Adagrad",
    "SGD": "Adam", "SignSGD": "Adam",
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_RULES)
def test_a_checkpoint_of_another_rule_is_refused(name: str) -> None:
    """The states that a parameter has moved by are not there: with zeros in their place it would go astray."""
    params = [_one(), _one()]
    given = {"momentum": 0.9} if OTHER_RULES[name] == "SGD" else {}
    other = getattr(torch.optim, OTHER_RULES[name])(params, lr=0.1, **given)
    hand_over(params, [torch.ones(2, 2)] * 2)
    other.step()
    optimizer = getattr(fu.torch, name)(params)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=rf"state_dict\['state'\]\[0\]: expected the states of {name} or none"):
        optimizer.load_state_dict(copy.deepcopy(other.state_dict()))
    assert optimizer.state_dict() == before


def test_a_checkpoint_of_a_package_with_other_names_is_refused() -> None:
    p = _one()
    other = peer("pytorch_optimizer").Tiger([p])
    p.grad = torch.ones(2, 2)
    other.step()
    with pytest.raises(ValueError, match=r"expected the states of Tiger or none, received one with 'exp_avg'"):
        fu.torch.Tiger([p]).load_state_dict(other.state_dict())


@pytest.mark.parametrize("name", ["SGD", "SignSGD", "AdamW"])
def test_what_an_option_keeps_is_not_another_rules(name: str) -> None:
    """As the gradient before."""
    params = [_one(), _one()]
    optimizer = getattr(fu.torch, name)(params, lr=0.1, optimism=0.3, ema_decay=0.9)
    hand_over(params, [torch.ones(2, 2)] * 2)
    optimizer.step()
    hand_over(params, [torch.ones(2, 2), None])
    optimizer.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    hand_over(params, [torch.ones(2, 2)] * 2)
    optimizer.step()
    assert "previous" in optimizer.state[params[0]]


def test_a_state_of_torchs_muon_has_no_count_to_correct_by() -> None:
    p, other = _one(), _one()
    p.grad = other.grad = torch.ones(2, 2)
    theirs, optimizer = torch.optim.Muon([other]), fu.torch.Muon([p], corrected=True)
    theirs.step()
    optimizer.load_state_dict(theirs.state_dict())
    with pytest.raises(ValueError, match=r"\[muon\] state\['step'\]\[0\]\[0\]: expected a step count beside 'mom"):
        optimizer.step()
    assert (p == 1).all()
    assert list(optimizer.state[p]) == ["momentum_buffer"]


def test_a_state_that_has_lost_an_array_is_refused() -> None:
    params = [_one(), _one()]
    optimizer = fu.torch.AdamW(params)
    hand_over(params, [torch.ones(2, 2)] * 2)
    optimizer.step()
    del optimizer.state[params[1]]["exp_avg_sq"]
    before = copy.deepcopy(params)
    with pytest.raises(ValueError, match=r"\[adamw\] state\[0\]\[1\]: expected the states of AdamW or none"):
        optimizer.step()
    assert_same_bits(arrays_of(params), arrays_of(before), "parameters")
    optimizer.state[params[1]].clear()
    optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in params] == [2, 1]
