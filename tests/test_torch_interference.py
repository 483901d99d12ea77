"""What others do to an optimizer of fastupdate.torch between two steps has the effect that it has on torch's."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from cases import Case, random_arrays
from peers import file_needs, peer
from tolerances import PEER, Drift
from torch_cases import TORCHS, arrays_of, hand_over, ours, parameters, tensors, theirs, torch
from torch_runs import STEPS, a_run, steps

import fastupdate as fu

pytestmark = pytest.mark.peer
file_needs("torch")


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


def _set_lr(optimizer: Any, params: list[Any]) -> None:
    optimizer.param_groups[0]["lr"] = 0.003


def _fill_lr(optimizer: Any, params: list[Any]) -> None:
    optimizer.param_groups[0]["lr"] = torch.tensor(0.01, dtype=torch.float64)


def _replace_state(optimizer: Any, params: list[Any]) -> None:
    for p in params:
        optimizer.state[p]["exp_avg"] = optimizer.state[p]["exp_avg"] * 0.5


def _rebind_state(optimizer: Any, params: list[Any]) -> None:
    for entry in optimizer.state.values():
        for name in ("exp_avg", "exp_avg_sq"):
            entry[name].data = entry[name].data * 2


def _forget_state(optimizer: Any, params: list[Any]) -> None:
    optimizer.state.pop(params[4])


def _clear_state(optimizer: Any, params: list[Any]) -> None:
    optimizer.state.clear()


def _plain_state(optimizer: Any, params: list[Any]) -> None:
    from collections import defaultdict

    optimizer.state = defaultdict(dict, {p: dict(entry) for p, entry in optimizer.state.items()})


def _set_steps(optimizer: Any, params: list[Any]) -> None:
    for p in params:
        optimizer.state[p]["step"].fill_(9)


def _set_one_step(optimizer: Any, params: list[Any]) -> None:
    optimizer.state[params[1]]["step"] += 4


def _replace_step(optimizer: Any, params: list[Any]) -> None:
    optimizer.state[params[1]]["step"] = torch.tensor(11.0)


def _rebind_step(optimizer: Any, params: list[Any]) -> None:
    optimizer.state[params[1]]["step"].data = torch.tensor(11.0)


def _rebind_params(optimizer: Any, params: list[Any]) -> None:
    for p in params:
        p.data = p.data.clone() + 1


def _relay_params(optimizer: Any, params: list[Any]) -> None:
    params[4].data = params[4].data.to(memory_format=torch.channels_last)


def _drop_param(optimizer: Any, params: list[Any]) -> None:
    optimizer.param_groups[0]["params"] = params[:4]


def _swap_list(optimizer: Any, params: list[Any]) -> None:
    optimizer.param_groups[0]["params"] = params[3:]


def _split(optimizer: Any, params: list[Any]) -> None:
    optimizer.param_groups[0]["params"] = params[:4]
    optimizer.add_param_group({"params": params[4:], "lr": 0.02, "weight_decay": 0.1})


def _betas(optimizer: Any, params: list[Any]) -> None:
    optimizer.param_groups[0]["betas"] = (0.5, 0.9)


def _maximize(optimizer: Any, params: list[Any]) -> None:
    optimizer.param_groups[0]["maximize"] = True


def _amsgrad(optimizer: Any, params: list[Any]) -> None:
    for p in params:
        optimizer.state[p]["max_exp_avg_sq"] = torch.zeros_like(p)
    optimizer.param_groups[0]["amsgrad"] = True


def _own_entry(optimizer: Any, params: list[Any]) -> None:
    optimizer.state[params[0]]["note"] = "mine"
    optimizer.state["other"] = 3


INTERFERENCES = [
    _set_lr, _fill_lr, _replace_state, _rebind_state, _forget_state, _clear_state, _plain_state, _set_steps,
    _set_one_step, _replace_step, _rebind_step, _rebind_params, _relay_params, _drop_param, _swap_list, _split, _betas,
    _maximize, _amsgrad, _own_entry,
]  # fmt: skip

REACHES: dict[str, Any] = {
    "[]": lambda entry: entry["exp_avg"],
    "get": lambda entry: entry.get("exp_avg"),
    "items": lambda entry: next(t for name, t in entry.items() if name == "exp_avg"),
    "values": lambda entry: list(entry.values())[1],
    "dict": lambda entry: dict(entry)["exp_avg"],
    "**": lambda entry: {**entry}["exp_avg"],
    "|": lambda entry: (entry | {})["exp_avg"],
    "copy": lambda entry: entry.copy()["exp_avg"],
    "shallow copy": lambda entry: copy.copy(entry)["exp_avg"],
    "setdefault": lambda entry: entry.setdefault("exp_avg", None),
}


@pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES)
def test_a_state_that_was_handed_out_may_be_given_other_memory_later(reach: Any) -> None:
    case = Case("adamw", "", {"lr": 0.01})
    (optimizer, params), (reference, others) = a_run(case, ours), a_run(case, theirs)
    handed = [reach(o.state[its[6]]) for o, its in ((optimizer, params), (reference, others))]
    for k in range(3):
        steps(optimizer, params, STEPS + k, 1)
        steps(reference, others, STEPS + k, 1)
        for t in handed:
            t.data = t.data * 3
    assert np.allclose(*(its[6].detach().numpy() for its in (params, others)), rtol=1e-5)
    assert optimizer.state[params[6]]["exp_avg"] is handed[0]


def test_nobody_is_handed_a_state_by_an_ordinary_step() -> None:
    params = parameters(1)
    optimizer = fu.torch.AdamW(params)
    steps(optimizer, params, 0)
    assert not optimizer.state.revision.shown
    optimizer.state_dict()
    assert optimizer.state.revision.shown


@pytest.mark.parametrize("interfere", INTERFERENCES, ids=lambda f: f.__name__[1:])
def test_interference_has_the_effect_that_it_has_on_torchs(interfere: Any) -> None:
    case = Case("adamw", "", {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.3})
    (optimizer, params), (reference, others) = a_run(case, ours), a_run(case, theirs)
    drifts = [Drift(a.copy()) for a in arrays_of(others)]
    for k in range(2):
        interfere(optimizer, params) if k == 0 else None
        interfere(reference, others) if k == 0 else None
        steps(optimizer, params, STEPS + k, 1)
        steps(reference, others, STEPS + k, 1)
        for drift, p, q in zip(drifts, params, others, strict=True):
            drift.compare(p.detach().numpy(), q.detach().numpy())
    assert max(drift.worst for drift in drifts) <= PEER
    for p, q in zip(params, others, strict=True):
        if "step" in reference.state[q]:
            assert optimizer.state[p]["step"] == reference.state[q]["step"]


@pytest.mark.parametrize("name", TORCHS)
def test_what_is_swapped_in_moves_where_it_is(name: str) -> None:
    """Parameters and states of others, step after step: torch's context hands them over anew in each."""
    from torch.optim._stateless import swap_in_optimizer_params_and_state

    case = Case(name, "", {"lr": 0.01, **({"momentum": 0.9} if name == "sgd" else {})})
    found = []
    for make in (ours, theirs):
        optimizer, own = a_run(case, make)
        before = [a.copy() for a in arrays_of(own)]
        saved = optimizer.state_dict()
        cloned = {k: {name: t.clone() for name, t in entry.items()} for k, entry in saved["state"].items()}
        state = {**saved, "state": cloned}
        params = {str(k): torch.nn.Parameter(p.detach().clone()) for k, p in enumerate(own)}
        for k in range(3):
            hand_over([*params.values()], tensors(20 + k))
            with swap_in_optimizer_params_and_state(optimizer, params, state):
                optimizer.step()
        for p, a in zip(own, before, strict=True):
            assert np.array_equal(p.detach().numpy(), a)
        found.append(([*params.values()], state["state"]))
        steps(optimizer, own, STEPS, 1)
        found[-1][0].extend(own)
    for p, q in zip(*(params for params, _ in found), strict=True):
        assert np.allclose(*(t.detach().numpy() for t in (p, q)), rtol=1e-4, atol=1e-6)
    followed = fu.torch.names.NUMBERS.get(name, {})  # worked out when a state is saved
    for mine, others in zip(*(state.values() for _, state in found), strict=True):
        for key in mine.keys() - followed:
            torch.testing.assert_close(mine[key], others[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_a_state_that_was_set_is_the_one_that_moves(layout: str) -> None:
    """As some optimizers of others' do, so that processes share it: who holds it sees its numbers change."""
    case, held = Case("adamw", "", {"lr": 0.01}), []
    for make in (ours, theirs):
        params = parameters(1, np.float32, layout)
        optimizer = make(case, params)
        for p in params:
            state = {name: torch.zeros(p.shape) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[p].update(step=torch.zeros(()), **state)
        held.append([t for p in params for t in optimizer.state[p].values()])
        steps(optimizer, params, 0)
    for mine, others in zip(*held, strict=True):
        torch.testing.assert_close(mine, others)


ORDERS: dict[str, Any] = {
    "C": lambda t: t.contiguous(),
    "reversed": lambda t: t.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "swapped": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "strided": lambda t: torch.stack([t, t], dim=-1)[..., 0],
}
KEEPING = {
    "momentum": ("Momentum", {}),
    "adam": ("Adam", {}),
    "average": ("SGD", {"ema_decay": 0.9, "shadow": "bfloat16"}),
    "monitor": ("RMSprop", {"monitor": True}),
    "lookahead": ("SGD", {"lookahead": (2, 0.5)}),
}


@pytest.mark.parametrize(("rule", "options"), KEEPING.values(), ids=KEEPING)
@pytest.mark.parametrize("after", ORDERS)
@pytest.mark.parametrize("before", ORDERS)
def test_states_follow_a_parameter_into_another_order_of_memory(
    before: str, after: str, rule: str, options: dict[str, Any]
) -> None:
    """As `model.to(memory_format=…)` does: the bits are those of one that stays, whichever tensors have gradients."""
    start, *grads = (torch.from_numpy(a).reshape(3, 4, 5) for a in random_arrays(0, [60] * 8, np.float32))
    found = []
    for moved in (False, True):
        params = [torch.nn.Parameter(ORDERS[before](start.clone())) for _ in range(2)]
        optimizer = getattr(fu.torch, rule)(params, lr=0.1, **options)
        for k, g in enumerate(grads):
            params[0].grad, params[1].grad = g.clone(), g.clone() if k % 2 else None
            optimizer.step()
            if k == 3 and moved:
                params[0].data = ORDERS[after](params[0].data)
        held = [t for state in optimizer.state_dict()["state"].values() for t in state.values()]
        found.append([*params, *held])
    for stayed, followed in zip(*found, strict=True):
        assert torch.equal(stayed, followed)
