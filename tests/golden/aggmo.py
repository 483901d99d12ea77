"""Beside pytorch_optimizer's AggMo."""

from golden import Golden
from golden.peers import Torch

ROWS = {
    "plain": Golden(
        {"lr": 0.01, "weight_decay": 0.03},
        Torch("pytorch_optimizer", "AggMo", lr=0.01, weight_decay=0.03),
    ),
    "three": Golden(
        {"lr": 0.01, "betas": (0.5, 0.8), "beta3": 0.97, "weight_decay": 0.03},
        Torch("pytorch_optimizer", "AggMo", lr=0.01, betas=(0.5, 0.8, 0.97), weight_decay=0.03),
    ),
}
