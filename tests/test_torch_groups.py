"""fastupdate.torch under torch's schedulers, and groups that are added or named."""

from __future__ import annotations

from typing import Any

import pytest
from cases import Case, assert_same_bits
from peers import file_needs, peer
from torch_cases import arrays_of, hand_over, parameters, tensors, torch
from torch_pairs import ADAMW, Pair

import fastupdate as fu

pytestmark = pytest.mark.peer
file_needs("torch")


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


def _groups(params: list[Any]) -> list[dict[str, Any]]:
    return [{"params": params[:3], "lr": 0.03}, {"params": params[3:5], "weight_decay": 0.0}, {"params": params[5:]}]


SCHEDULERS: dict[str, Any] = {
    "LambdaLR": lambda s, o: s.LambdaLR(o, lambda t: 0.9**t),
    "MultiplicativeLR": lambda s, o: s.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda s, o: s.StepLR(o, 2),
    "MultiStepLR": lambda s, o: s.MultiStepLR(o, [1, 3]),
    "ConstantLR": lambda s, o: s.ConstantLR(o, 0.5, 2),
    "LinearLR": lambda s, o: s.LinearLR(o, 0.1, 1.0, 4),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.8),
    "SequentialLR": lambda s, o: s.SequentialLR(o, [s.ConstantLR(o, 0.1, 2), s.ExponentialLR(o, 0.9)], [2]),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 6),
    "ChainedScheduler": lambda s, o: s.ChainedScheduler([s.ConstantLR(o, 0.1, 2), s.ExponentialLR(o, 0.9)], o),
    "ReduceLROnPlateau": lambda s, o: s.ReduceLROnPlateau(o, patience=0),
    "CyclicLR": lambda s, o: s.CyclicLR(o, 0.001, 0.1, step_size_up=2, cycle_momentum=True),
    "CosineAnnealingWarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 4),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, 0.1, total_steps=9),
    "PolynomialLR": lambda s, o: s.PolynomialLR(o, 6),
}


def test_every_scheduler_of_torch_is_tried() -> None:
    assert set(torch.optim.lr_scheduler.__all__) - {"LRScheduler"} == SCHEDULERS.keys()


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("rule", ["adamw", "sgd"])
def test_schedulers_drive_a_step(name: str, rule: str) -> None:
    case = ADAMW if rule == "adamw" else Case("sgd", "", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.03})
    pair = Pair(make=lambda build, params: build(case, _groups(params)))
    module = torch.optim.lr_scheduler
    schedulers = [SCHEDULERS[name](module, optimizer) for optimizer, _ in pair.both]
    for seed in range(6):
        pair.step(seed)
        for scheduler in schedulers:
            scheduler.step(*[1.0] if name == "ReduceLROnPlateau" else [])
    assert [g["lr"] for g in pair.ours.param_groups] == [g["lr"] for g in pair.theirs.param_groups]
    assert pair.ours.param_groups[0]["lr"] != 0.03 or name == "ConstantLR"


EDITS: list[dict[tuple[int, str], Any]] = [  # of groups, one before each step
    {(0, "lr"): 0.02, (1, "lr"): 0.02},
    {(0, "lr"): 0.0},
    {(0, "lr"): 0.02},
    {(0, "lr"): 0.0, (2, "weight_decay"): 0.5},
    {(0, "lr"): 0.01, (0, "betas"): (0.5, 0.6)},
    {(2, "lr"): 1},
    {(2, "lr"): 0.02, (1, "eps"): 1e-3},
    {},
]


def test_values_of_groups_may_change_before_each_step() -> None:
    pair = Pair(make=lambda build, params: build(ADAMW, _groups(params)))
    pair.step(0)
    for seed, edits in enumerate(EDITS):
        for optimizer, _ in pair.both:
            for (k, name), value in edits.items():
                optimizer.param_groups[k][name] = value
        pair.step(1 + seed)


def test_values_that_change_beside_a_wrong_one_hold_once_it_is_right() -> None:
    pair = Pair(make=lambda build, params: build(ADAMW, _groups(params)))
    pair.step(0)
    for optimizer, _ in pair.both:
        optimizer.param_groups[0]["weight_decay"] = 0.5
        optimizer.param_groups[1]["lr"] = 0.05
    pair.ours.param_groups[2]["eps"] = -1.0
    with pytest.raises(ValueError, match="eps"):
        pair.ours.step()
    pair.ours.param_groups[2]["eps"] = pair.theirs.param_groups[2]["eps"]
    pair.step(1)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_lr_may_be_a_tensor_that_is_filled(shape: Any) -> None:
    pair = Pair(make=lambda build, params: build(ADAMW, params, lr=torch.full(shape, 0.02)))
    for seed in range(3):
        pair.step(seed)
        for optimizer, _ in pair.both:
            optimizer.param_groups[0]["lr"].fill_(0.01 * seed)


def test_a_group_is_added_while_training() -> None:
    pair = Pair(make=lambda build, params: build(ADAMW, params[:5]))
    for seed in range(2):
        pair.step(seed)
    for optimizer, params in pair.both:
        optimizer.add_param_group({"params": params[5:], "lr": 0.05})
    for seed in range(2, 5):
        pair.step(seed)


def test_what_the_step_reads_may_differ_between_groups() -> None:
    """As the groups of fu.AdamW."""
    params = parameters(1)
    arrays = {str(k): a.copy() for k, a in enumerate(arrays_of(params))}
    special = {"l1": 0.01, "clip_value": 0.2, "lr_scale": 0.5, "ema_decay": 0.5, "betas": (0.5, 0.6)}
    optimizer = fu.torch.AdamW([{"params": params[:3]}, {"params": params[3:], **special}], lr=0.1, ema_decay=0.9)
    reference = fu.AdamW(arrays, lr=0.1, ema_decay=0.9, groups=[{"params": ["3", "4", "5", "6", "7"], **special}])
    for step in range(3):
        grads = tensors(2 + step)
        hand_over(params, grads)
        optimizer.step()
        reference.step({str(k): g.numpy() for k, g in enumerate(grads)})
    assert_same_bits(arrays_of(params), list(arrays.values()), "parameters")
    assert_same_bits([optimizer.state[p]["ema"].numpy() for p in params], list(reference.ema.values()), "ema")


def test_named_parameters_name_what_is_wrong() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = fu.torch.AdamW(model.named_parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    model.bias.data = model.bias.data.double()
    with pytest.raises(TypeError, match=r"\[adamw\] params\['bias'\]: expected float32, received float64"):
        optimizer.step()


@pytest.mark.parametrize("steps", [3, 6])
def test_a_rate_that_rounding_has_brought_below_zero_is_zero(steps: int) -> None:
    """As torch's LinearLR leaves it, which goes from one rate to the next by a factor."""
    pair, lowest = Pair(), 0.0
    schedulers = [torch.optim.lr_scheduler.LinearLR(o, 0.3, 0.0, steps) for o, _ in pair.both]
    for seed in range(steps + 2):
        pair.step(seed)
        for scheduler in schedulers:
            scheduler.step()
        lowest = min(lowest, pair.ours.param_groups[0]["lr"])
    assert lowest < 0
