"""Beside optimi's and pytorch_optimizer's StableAdamW, with gradients on both sides of what is clipped."""

from golden import Golden
from golden.peers import Torch

ROWS = {
    "optimi": Golden(
        {"lr": 0.01, "weight_decay": 0.3},
        Torch("optimi", "StableAdamW", lr=0.01, weight_decay=0.3, foreach=False, triton=False),
    ),
    "slow": Golden(
        {"lr": 0.01, "betas": (0.8, 0.999), "eps": 1e-3, "weight_decay": 0.1},
        Torch("optimi", "StableAdamW", lr=0.01, betas=(0.8, 0.999), eps=1e-3, weight_decay=0.1, triton=False),
    ),
    "pytorch_optimizer": Golden(
        given := {"lr": 0.01, "eps": 1e-6, "weight_decay": 0.3},
        Torch("pytorch_optimizer", "StableAdamW", **given, kahan_sum=False),
    ),
}
