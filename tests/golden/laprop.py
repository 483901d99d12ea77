"""Beside timm's LaProp, whose decay comes before the step."""

from golden import Golden
from golden.peers import Torch

ROWS = {
    "plain": Golden(
        given := {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.3},
        Torch("timm.laprop", "LaProp", **given),
    ),
}
