"""Beside pytorch_optimizer's D-Adaptation of SGD, which keeps the sums over all tensors in float32."""

from golden import Golden
from golden.peers import Torch

ARGUMENTS = {"lr": 0.7, "momentum": 0.8, "weight_decay": 3.0, "d0": 1e-2}

ROWS = {
    "plain": Golden(ARGUMENTS, Torch("pytorch_optimizer", "DAdaptSGD", **ARGUMENTS), dtypes=("float32",)),
    "slow": Golden(
        {"weight_decay": 0.3, "d0": 1e-3, "growth_rate": 1.25},
        Torch("pytorch_optimizer", "DAdaptSGD", weight_decay=0.3, d0=1e-3, growth_rate=1.25),
        dtypes=("float32",),
    ),
}
