"""Beside torch's ASGD, whose average starts after t₀ steps."""

from golden import Golden
from golden.peers import Torch

ROWS = {
    "plain": Golden(
        given := {"lr": 0.05, "lambd": 0.01, "alpha": 0.6, "t0": 4.0, "weight_decay": 0.03},
        Torch("torch.optim", "ASGD", **given),
    ),
}
