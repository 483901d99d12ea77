"""Beside pytorch_optimizer's AggMo."""

from golden import Golden
from golden.peers import Torch


def beside(betas: tuple[float, ...]) -> Golden:
    shared = {"lr": 0.01, "betas": betas, "weight_decay": 0.03}
    return Golden(shared, Torch("pytorch_optimizer", "AggMo", **shared))


ROWS = {
    "plain": Golden(
        {"lr": 0.01, "weight_decay": 0.03},
        Torch("pytorch_optimizer", "AggMo", lr=0.01, weight_decay=0.03),
    ),
    "two": beside((0.0, 0.9)),
    "three": beside((0.5, 0.8, 0.97)),
    "four": beside((0.0, 0.9, 0.99, 0.999)),
    "gradients among them": beside((0.5, 0.9, 0.0, 0.0, 0.99)),
    "five": beside((0.5, 0.8, 0.9, 0.97, 0.99)),
}
