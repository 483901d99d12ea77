"""Copies and pickles of optimizers, and states in the hands of torch."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
from cases import Case, by_case, exactly
from peers import peer
from scenarios import Call, assert_equal, do, network, run, scenarios, step

import fastupdate as fu


def pickled(opt: fu.Optimizer) -> fu.Optimizer:
    return pickle.loads(pickle.dumps(opt))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
@pytest.mark.parametrize(("options", "calls", "pause"), scenarios())
def test_a_copy_goes_on_like_the_original(options: Any, calls: list[Call], pause: int, duplicate: Any) -> None:
    opt = run(lambda params: fu.AdamW(params, **options()), calls[:pause])
    other = duplicate(opt)
    for call in calls[pause:]:
        do(opt, call)
    assert not any(
        np.shares_memory(a.array, b.array) for a, b in zip(opt.stepper.items, other.stepper.items, strict=True)
    )
    for call in calls[pause:]:
        do(other, call)
    assert_equal(opt, other)


@by_case
def test_a_copy_keeps_flags_whose_hyperparameter_has_become_zero(case: Case) -> None:
    opt = case.make(network())
    do(opt, step(0))
    for hyper in opt.rule.flag_hypers.values():
        opt.groups[0][hyper] = 0.0
    other = copy.deepcopy(opt)
    do(opt, step(1))
    do(other, step(1))
    assert_equal(opt, other)


@pytest.mark.peer
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_model_and_its_optimizer_are_copied_together(duplicate: Any) -> None:
    torch = peer("torch")
    model = torch.nn.Linear(3, 2)
    opt = fu.Adam(list(model.parameters()), lr=0.1)
    for _ in range(2):
        twin, other = duplicate((model, opt))
        for net, update in ((model, opt), (twin, other)):
            net.zero_grad()
            net(torch.ones(4, 3)).sum().backward()
            update.step()
        assert_equal(opt, other)
        assert all(torch.equal(a, b) and a is not b for a, b in zip(model.parameters(), twin.parameters(), strict=True))


class Named(fu.SGD):
    """A user's own optimizer."""


def test_a_copy_has_the_attributes_of_its_original_and_gradients_of_its_own() -> None:
    opt = Named({"w": np.ones(3)}, lr=0.1)
    opt.label = "first"
    opt.bind({"w": np.ones(3)})
    other = copy.deepcopy(opt)
    assert (type(other), other.label) == (Named, "first")
    with pytest.raises(TypeError, match="expected gradients, or bound ones"):
        other.step()


# -- torch.save -------------------------------------------------------------------------------------------------------


def saved_by_torch(state: Any) -> Any:
    torch = peer("torch")
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def torch_optimizer(seed: int, **options: Any) -> tuple[list[Any], fu.Optimizer]:
    torch = peer("torch")
    generator = torch.Generator().manual_seed(seed)
    params = [torch.randn(shape, generator=generator) for shape in ((3, 2), (4,), ())]
    opt = fu.AdamW(params, lr=fu.schedules.plateau(0.1), **options)
    opt.step([torch.full_like(p, 0.5 + seed) for p in params])
    return params, opt


@pytest.mark.peer
@pytest.mark.parametrize("shadow", ["bfloat16", "float16"])
def test_torch_keeps_a_state_without_unpickling_anything_else(shadow: Any) -> None:
    options = {"shadow": shadow, "ema_decay": 0.9, "lookahead": (2, 0.5)}
    params, opt = torch_optimizer(0, **options)
    opt.accumulate([p * 0.5 for p in params])
    state = saved_by_torch(opt.state_dict())
    assert exactly(state) == exactly(opt.state_dict())
    assert {str(a.dtype) for k, a in state["arrays"].items() if k.startswith("shadow")} == {f"torch.{shadow}"}
    _, other = torch_optimizer(1, **options)
    other.load_state_dict(state)
    assert exactly(other.state_dict()) == exactly(opt.state_dict())


@pytest.mark.peer
def test_a_state_of_torch_is_a_copy() -> None:
    params, opt = torch_optimizer(0)
    state = opt.state_dict()
    before = exactly(state)
    opt.step([p.clone() for p in params])
    assert exactly(state) == before


@pytest.mark.peer
def test_states_go_from_torch_to_numpy_and_back() -> None:
    params, opt = torch_optimizer(0, shadow="bfloat16")
    arrays = [p.numpy().copy() for p in params]
    other = fu.AdamW(arrays, lr=fu.schedules.plateau(0.1), shadow="bfloat16")
    other.load_state_dict(opt.state_dict())
    assert all(type(a) is np.ndarray for a in other.state_dict()["arrays"].values())
    _, third = torch_optimizer(1, shadow="bfloat16")
    third.load_state_dict(other.state_dict())
    assert exactly(third.state_dict()) == exactly(opt.state_dict())
