"""Beside timm's SGDP, with steps that are projected unit by unit, as a whole and not at all."""

from golden import Golden
from golden.adamp import SHAPES
from golden.peers import Torch

ARGUMENTS = {"lr": 0.01, "momentum": 0.8, "weight_decay": 0.03, "eps": 0.1, "delta": 1.0, "wd_ratio": 0.5}

ROWS = {
    "timm": Golden(ARGUMENTS, Torch("timm.sgdp", "SGDP", **ARGUMENTS), SHAPES),
    "nesterov": Golden(
        ARGUMENTS | {"nesterov": True, "dampening": 0.3, "delta": 1.5},
        Torch("timm.sgdp", "SGDP", nesterov=True, dampening=0.3, **ARGUMENTS | {"delta": 1.5}),
        SHAPES,
    ),
    "defaults": Golden(
        {"momentum": 0.0, "weight_decay": 0.03}, Torch("timm.sgdp", "SGDP", lr=0.1, weight_decay=0.03), SHAPES
    ),
}
