"""Beside pytorch_optimizer's CAME, on matrices and vectors."""

from golden import Golden
from golden.peers import Torch

SHAPES = (1, 7, 1025, (3, 5), (33, 32), (2, 3, 5))
ARGUMENTS = {"lr": 0.01, "weight_decay": 0.3}

ROWS = {
    "defaults": Golden({"weight_decay": 0.3}, Torch("pytorch_optimizer", "CAME", weight_decay=0.3), SHAPES),
    "other": Golden(
        ARGUMENTS | {"betas": (0.8, 0.97), "beta3": 0.9, "d": 3.0, "eps": (1e-3, 1e-2)},
        Torch(
            "pytorch_optimizer", "CAME", betas=(0.8, 0.97, 0.9), clip_threshold=3.0, eps1=1e-3, eps2=1e-2, **ARGUMENTS
        ),
        SHAPES,
    ),
}
