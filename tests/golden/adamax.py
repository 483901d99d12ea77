"""Beside torch's Adamax."""

from golden import Golden
from golden.peers import Torch

ROWS = {
    "plain": Golden(
        given := {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-3, "weight_decay": 0.03},
        Torch("torch.optim", "Adamax", **given),
    ),
}
