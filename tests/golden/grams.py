"""Beside pytorch_optimizer's Grams."""

from golden import Golden
from golden.peers import Torch

ROWS = {
    "plain": Golden({"lr": 0.01, "weight_decay": 0.3}, Torch("pytorch_optimizer", "Grams", lr=0.01, weight_decay=0.3)),
    "betas": Golden(
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3},
        Torch("pytorch_optimizer", "Grams", lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.3),
    ),
}
