"""Beside timm's SGDW."""

from golden import Golden
from golden.peers import Torch

ROWS = {
    "plain": Golden(given := {"lr": 0.05, "weight_decay": 0.3}, Torch("timm.sgdw", "SGDW", **given)),
    "momentum": Golden(
        given := {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.3}, Torch("timm.sgdw", "SGDW", **given)
    ),
    "nesterov": Golden({**given, "nesterov": True}, Torch("timm.sgdw", "SGDW", **given, nesterov=True)),
}
