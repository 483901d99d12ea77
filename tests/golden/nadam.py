"""Beside torch's NAdam, and with Keras' momentum_decay of 1. torch keeps the product of the μ in float32."""

from golden import Golden
from golden.peers import Torch

ROWS = {
    "plain": Golden(
        given := {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.03},
        Torch("torch.optim", "NAdam", **given),
        dtypes=("float32",),
    ),
    "fast": Golden(
        {**given, "momentum_decay": 1.0},
        Torch("torch.optim", "NAdam", **given, momentum_decay=1.0),
        dtypes=("float32",),
    ),
    "decoupled": Golden(
        {**given, "decay": "decoupled"},
        Torch("torch.optim", "NAdam", **given, decoupled_weight_decay=True),
        dtypes=("float32",),
    ),
}
