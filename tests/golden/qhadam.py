"""Beside pytorch_optimizer's QHAdam."""

from golden import Golden
from golden.peers import Torch

ROWS = {
    "plain": Golden(
        given := {"lr": 0.01, "betas": (0.85, 0.97), "nus": (0.7, 0.9), "eps": 1e-6, "weight_decay": 0.03},
        Torch("pytorch_optimizer", "QHAdam", **given),
        dtypes=("float32",),  # it corrects in float32 whatever the weights are
    ),
}
