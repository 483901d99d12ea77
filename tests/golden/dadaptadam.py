"""Beside pytorch_optimizer's D-Adaptation of Adam.

The decay, or the one seed and shape, is such that gradients agree and d grows.
"""

from golden import Golden
from golden.peers import Torch

ARGUMENTS = {"lr": 0.7, "betas": (0.85, 0.97), "eps": 1e-2, "weight_decay": 3.0, "d0": 1e-3}
APART = ARGUMENTS | {"betas": (0.85, 0.99), "weight_decay": 0.03}

ROWS = {
    "plain": Golden(ARGUMENTS, Torch("pytorch_optimizer", "DAdaptAdam", **ARGUMENTS)),
    "corrected": Golden(
        ARGUMENTS | {"use_bias_correction": True},
        Torch("pytorch_optimizer", "DAdaptAdam", bias_correction=True, **ARGUMENTS),
    ),
    "slow": Golden(
        ARGUMENTS | {"growth_rate": 1.25}, Torch("pytorch_optimizer", "DAdaptAdam", **ARGUMENTS, growth_rate=1.25)
    ),
    "decoupled": Golden(
        APART | {"decouple": True},
        Torch("pytorch_optimizer", "DAdaptAdam", weight_decouple=True, **APART),
        shapes=(3,),
    ),
}
