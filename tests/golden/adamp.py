"""Beside timm's AdamP, with steps that are projected unit by unit, as a whole and not at all."""

from golden import Golden
from golden.peers import Torch

SHAPES = (7, 33, (1, 16), (2, 16), (16, 8), (33, 32), (2, 3, 5), (3, 2, 2, 3))
ARGUMENTS = {"lr": 0.01, "betas": (0.85, 0.97), "eps": 0.1, "weight_decay": 0.3, "delta": 1.0, "wd_ratio": 0.5}

ROWS = {
    "timm": Golden(ARGUMENTS, Torch("timm.adamp", "AdamP", **ARGUMENTS), SHAPES),
    "nesterov": Golden(
        ARGUMENTS | {"nesterov": True, "delta": 1.5},
        Torch("timm.adamp", "AdamP", nesterov=True, **ARGUMENTS | {"delta": 1.5}),
        SHAPES,
    ),
    "defaults": Golden({"weight_decay": 0.3}, Torch("timm.adamp", "AdamP", weight_decay=0.3), SHAPES),
}
