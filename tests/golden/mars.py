"""Beside timm's MARS, on matrices and vectors, and pytorch_optimizer's, whose ε stands elsewhere."""

from golden import Golden
from golden.peers import Torch

ARGUMENTS = {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.3, "gamma": 0.05}
MATRICES, WITHOUT = (*[(1, 1)] * 8, (3, 5), (33, 32)), {**ARGUMENTS, "eps": 0.0}
SHAPES = (1, 7, 1025, (3, 5), (33, 32), (2, 3, 5))

ROWS = {
    "timm": Golden(ARGUMENTS, Torch("timm.mars", "Mars", **ARGUMENTS), SHAPES),
    "defaults": Golden({"weight_decay": 0.3}, Torch("timm.mars", "Mars", weight_decay=0.3), SHAPES),
    "pytorch_optimizer": Golden(  # in float64 it shows that it adds 1e-15 to squares
        WITHOUT | {"correct_first": True}, Torch("pytorch_optimizer", "MARS", **WITHOUT), MATRICES, ("float32",)
    ),
    "vectors too": Golden(
        ARGUMENTS | {"optimize_1d": True}, Torch("timm.mars", "Mars", optimize_1d=True, **ARGUMENTS), SHAPES
    ),
}
