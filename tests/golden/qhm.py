"""Beside pytorch_optimizer's QHM."""

from golden import Golden
from golden.peers import Torch

ROWS = {
    "plain": Golden(
        given := {"lr": 0.05, "momentum": 0.9, "nu": 0.7, "weight_decay": 0.03},
        Torch("pytorch_optimizer", "QHM", **given),
    ),
}
