"""Beside timm's SGDW."""

from golden import Golden
from golden.peers import Mlx, Torch

ROWS = {
    "plain": Golden(given := {"lr": 0.05, "weight_decay": 0.3}, Torch("timm.sgdw", "SGDW", **given)),
    "momentum": Golden(
        given := {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.3}, Torch("timm.sgdw", "SGDW", **given)
    ),
    "dampened": Golden(
        {"lr": 0.05, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.3},
        Torch("timm.sgdw", "SGDW", lr=0.05, momentum=0.9, dampening=0.4, weight_decay=0.3),
    ),
    "dampened at once": Golden(
        {"lr": 0.05, "momentum": 0.9, "dampening": 0.4, "dampen_first": True},
        Mlx("SGD", learning_rate=0.05, momentum=0.9, dampening=0.4),
        dtypes=("float32",),
    ),
    "nesterov": Golden({**given, "nesterov": True}, Torch("timm.sgdw", "SGDW", **given, nesterov=True)),
}
