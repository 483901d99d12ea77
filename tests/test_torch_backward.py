"""fastupdate.torch.in_backward: the bits of ordinary steps, with gradients freed while backward runs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from cases import Case, assert_same_bits
from peers import file_needs, peer
from torch_cases import arrays_of, by_rule, ours, torch

import fastupdate as fu

pytestmark = pytest.mark.peer
file_needs("torch")

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "averages": {"ema_decay": 0.9, "lookahead": (2, 0.5), "shadow": "bfloat16"},
    "clip_value": {"clip_value": 0.01},
    "clip_unit_norm": {"clip_unit_norm": 0.01},
    "clip_norm": {"clip_norm": 0.01},
    "clip_tensor_norm": {"clip_tensor_norm": 0.01},
    "skip": {"nonfinite": "skip", "clip_norm": 0.5},
    "monitor": {"monitor": True},
}
LATE = ["clip_norm", "clip_tensor_norm", "skip", "monitor"]
by_option = pytest.mark.parametrize("option", OPTIONS)


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


def network() -> Any:
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (torch.nn.Linear(16, 16), torch.nn.Tanh())]
    return torch.nn.Sequential(*layers, torch.nn.Linear(16, 1))


def loss_of(model: Any, seed: int) -> Any:
    return model(torch.randn(8, 16, generator=torch.Generator().manual_seed(seed))).square().mean()


def groups_of(model: Any) -> list[dict[str, Any]]:
    params = list(model.parameters())
    return [{"params": params[::2]}, {"params": params[1::2], "weight_decay": 0.0, "lr": 0.02}]


class Twins:
    """A network that is trained by ordinary steps, and one of which backward takes the steps."""

    def __init__(self, case: Case, **options: Any) -> None:
        self.plain = network()
        self.moved = copy.deepcopy(self.plain)
        self.reference, self.optimizer = (ours(case, groups_of(m), **options) for m in (self.plain, self.moved))
        self.handle = fu.torch.in_backward(self.moved, self.optimizer)

    def step(self, seed: int, factor: float = 1.0) -> None:
        self.reference.zero_grad()
        (loss_of(self.plain, seed) * factor).backward()
        self.reference.step()
        (loss_of(self.moved, seed) * factor).backward()
        self.optimizer.step()

    def compare(self) -> None:
        assert_same_bits(*(arrays_of(m.parameters()) for m in (self.moved, self.plain)), "parameters")
        states = [o.state_dict()["state"] for o in (self.optimizer, self.reference)]
        torch.testing.assert_close(*states, rtol=0, atol=0)
        assert all(p.grad is None for p in self.moved.parameters())


@by_rule
@by_option
def test_the_bits_are_those_of_ordinary_steps(case: Case, option: str) -> None:
    twins = Twins(case, **OPTIONS[option])
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in (twins.optimizer, twins.reference)]
    for seed in range(5):
        twins.step(seed)
        for scheduler in schedulers:
            scheduler.step()
    twins.compare()


@by_option
def test_accumulation_moves_by_the_sum(option: str) -> None:
    twins = Twins(Case("adamw", "", {"lr": 0.01}), **OPTIONS[option])
    for seed in range(0, 9, 3):
        twins.reference.zero_grad()
        for k in range(3):
            loss_of(twins.plain, seed + k).backward()
        twins.reference.step()
        with twins.handle.accumulate():
            for k in range(2):
                loss_of(twins.moved, seed + k).backward()
        loss_of(twins.moved, seed + 2).backward()
        twins.optimizer.step()
    twins.compare()


def test_a_step_is_skipped_as_ever() -> None:
    twins = Twins(Case("adamw", "", {"lr": 0.01}), **OPTIONS["skip"])
    for seed in range(4):
        twins.step(seed, float("inf") if seed % 2 else 1.0)
        assert twins.optimizer.report.skipped == bool(seed % 2)
    twins.compare()


def test_a_scaler_scales_and_skips() -> None:
    twins = Twins(Case("adamw", "", {"lr": 0.01}), nonfinite="skip")
    scalers = [torch.amp.GradScaler("cpu", init_scale=8.0) for _ in range(2)]
    for seed in range(4):
        for model, optimizer, scaler in zip(
            (twins.plain, twins.moved), (twins.reference, twins.optimizer), scalers, strict=True
        ):
            if model is twins.plain:  # the other one's are freed, in a step that is left out too
                optimizer.zero_grad()
            factor = float("inf") if seed == 1 else 1.0
            scaler.scale(loss_of(model, seed) * factor).backward()
            scaler.step(optimizer)
            scaler.update()
    twins.compare()


@by_option
def test_no_gradient_outlives_its_step(option: str) -> None:
    """At most one is there while backward runs; where the step is decided by all of them, none after it."""
    twins = Twins(Case("adamw", "", {"lr": 0.01}), **OPTIONS[option])
    params = list(twins.moved.parameters())
    alive: list[int] = []
    for p in params:
        p.register_post_accumulate_grad_hook(lambda _: alive.append(sum(q.grad is not None for q in params)))
    for seed in range(3):
        twins.step(seed)
    assert max(alive) == (len(params) if option in LATE else 0)
    assert all(p.grad is None for p in params)


@pytest.mark.parametrize("option", LATE)
def test_gradients_are_summed_once_and_as_they_arrive(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastupdate.step.plan import Plan

    twins = Twins(Case("adamw", "", {"lr": 0.01}), **OPTIONS[option])
    loss_of(twins.moved, 0).backward()
    monkeypatch.setattr(
        Plan, "measure", lambda plan, _=1.0: plan.totals if plan.measured else pytest.fail("summed again")
    )
    twins.optimizer.step()


def test_sums_of_a_gradient_that_was_changed_are_not_used() -> None:
    twins = Twins(Case("adamw", "", {"lr": 0.01}), clip_norm=0.01)
    for seed in range(3):
        twins.reference.zero_grad()
        for model in (twins.plain, twins.moved):
            loss_of(model, seed).backward()
            for k, p in enumerate(model.parameters()):
                p.grad.mul_(k)
        twins.reference.step()
        twins.optimizer.step()
    twins.compare()


def test_it_goes_on_after_loading_and_ends_when_removed() -> None:
    twins = Twins(Case("adamw", "", {"lr": 0.01}))
    for seed in range(2):
        twins.step(seed)
    twins.optimizer.load_state_dict(copy.deepcopy(twins.reference.state_dict()))
    twins.step(2)
    twins.compare()
    twins.handle.remove()
    loss_of(twins.moved, 3).backward()
    assert all(p.grad is not None for p in twins.moved.parameters())
    twins.optimizer.step()
    twins.reference.zero_grad()
    loss_of(twins.plain, 3).backward()
    twins.reference.step()
    twins.optimizer.zero_grad()
    twins.compare()


def test_a_model_without_the_optimizers_parameters_is_refused() -> None:
    optimizer = fu.torch.AdamW(network().parameters())
    with pytest.raises(ValueError, match=r"\[adamw\] model: expected parameters of the optimizer's, received none"):
        fu.torch.in_backward(network(), optimizer)
