"""Beside torch's Adafactor. Sums are in another order there."""

from golden import Golden
from golden.peers import Torch

SHAPES = (1, 7, 33, (5, 3), (40, 30), (2, 3, 4))
SHARED = {"lr": 0.3, "d": 1.5, "beta2_decay": -0.5, "weight_decay": 0.1}

ROWS = {
    "torch": Golden(
        {**SHARED, "eps1": 1e-4, "eps2": 0.1},
        Torch("torch.optim", "Adafactor", eps=(1e-4, 0.1), **SHARED),
        SHAPES,
        ulp=64,
    ),
}
