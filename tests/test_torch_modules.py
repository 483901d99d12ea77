"""fastupdate.torch trains modules of every kind; averages, graphs and compilers that surround it."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
from peers import file_needs, peer
from torch_cases import hand_over, parameters, tensors, torch

import fastupdate as fu

pytestmark = pytest.mark.peer
file_needs("torch")


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


def _tied() -> Any:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


def _parametrized() -> Any:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())
    torch.nn.utils.parametrizations.weight_norm(model[0])
    return model


def _subclassed() -> Any:
    class Own(torch.nn.Parameter):
        pass

    model = torch.nn.Linear(4, 4)
    model.weight = Own(model.weight.detach().clone())
    return model


def _compiled() -> Any:
    return torch.compile(torch.nn.Linear(4, 4), backend="eager")


def _frozen() -> Any:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[0].requires_grad_(False)
    return model


MODELS = [_tied, _parametrized, _subclassed, _compiled, _frozen]


@pytest.mark.parametrize("make", MODELS, ids=lambda f: f.__name__[1:])
def test_modules_of_every_kind_train(make: Any) -> None:
    torch.manual_seed(0)
    model = make()
    twin = copy.deepcopy(model)
    optimizer, reference = fu.torch.AdamW(model.parameters(), lr=0.1), torch.optim.AdamW(twin.parameters(), lr=0.1)
    for seed in range(5):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        for m, o in ((model, optimizer), (twin, reference)):
            o.zero_grad()
            m(x).square().mean().backward()
            o.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_a_step_can_be_compiled_around() -> None:
    params = parameters(1)
    optimizer = fu.torch.AdamW(params)
    hand_over(params, tensors(2))
    before = params[0].detach().clone()
    torch.compile(optimizer.step, backend="eager")()
    assert not torch.equal(params[0], before)


def test_averages_of_torch_follow() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = fu.torch.SGD(model.parameters(), lr=0.1)
    decay = 0.75
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    )
    own = fu.torch.SGD((twin := copy.deepcopy(model)).parameters(), lr=0.1, ema_decay=decay)
    averaged.update_parameters(model)
    swa = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
    for _ in range(4):
        own.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"]
        for m, o in ((model, optimizer), (twin, own)):
            m(torch.ones(4, 3)).square().mean().backward()
            o.step()
            o.zero_grad()
        averaged.update_parameters(model)
        swa.step()
    for p, q in zip(twin.parameters(), averaged.module.parameters(), strict=True):
        torch.testing.assert_close(own.state[p]["ema"], q.detach())


def test_a_graph_that_saved_a_parameter_notices_the_step() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = fu.torch.SGD([p])
    p.grad = torch.ones(3)
    product = (p * p).sum()
    version = p._version
    optimizer.step()
    assert p._version == version + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_zero_grad_frees_or_zeroes() -> None:
    params = parameters(1)
    optimizer = fu.torch.AdamW(params)
    hand_over(params, tensors(2))
    optimizer.zero_grad(set_to_none=False)
    assert not any(p.grad.any() for p in params)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


def test_nothing_is_kept_of_parameters_that_were_given_up() -> None:
    params = parameters(1)
    optimizer = fu.torch.AdamW(params)
    hand_over(params, tensors(2))
    optimizer.step()
    gone = weakref.ref(params[4])
    del optimizer.param_groups[0]["params"][4], optimizer.state[params[4]], params[4]
    hand_over(params, [g for k, g in enumerate(tensors(3)) if k != 4])
    optimizer.step()
    gc.collect()
    assert gone() is None


def test_nothing_is_kept_of_what_was_swapped_in() -> None:
    from torch.optim._stateless import swap_in_optimizer_params_and_state

    params, gone = parameters(1), []
    optimizer = fu.torch.AdamW(params)
    for k in range(3):
        hand_over(params, tensors(2 + k))
        optimizer.step()
        others = parameters(1)
        hand_over(others, tensors(5 + k))
        state = copy.deepcopy(optimizer.state_dict())
        with swap_in_optimizer_params_and_state(optimizer, dict(enumerate(others)), state):
            optimizer.step()
        gone.append(weakref.ref(others[4]))
        del others, state
    hand_over(params, tensors(9))
    optimizer.step()
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


@pytest.mark.parametrize("name", ["AdamW", "NAdam", "ASGD", "Muon"])
def test_the_default_device_is_of_no_account(name: str) -> None:
    """States are where their parameters are, as are the counts of steps."""
    params = [torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
    optimizer = getattr(fu.torch, name)(params)
    with torch.device("meta"):
        for _ in range(2):
            hand_over(params, [torch.ones(3, 2, device="cpu")] * 2)
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
    kept = [t for entry in optimizer.state_dict()["state"].values() for t in entry.values()]
    assert {t.device.type for t in kept} == {"cpu"}
    assert all(t.any() for t in kept)
