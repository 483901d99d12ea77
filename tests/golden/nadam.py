"""Beside torch's NAdam, and with Keras' momentum_decay of 1."""

from golden import Golden
from golden.peers import Keras, Optax, Torch

ROWS = {
    "plain": Golden(
        given := {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.03},
        Torch("torch.optim", "NAdam", **given),
    ),
    "fast": Golden(
        {**given, "momentum_decay": 1.0},
        Torch("torch.optim", "NAdam", **given, momentum_decay=1.0),
    ),
    "decoupled": Golden(
        {**given, "decay": "decoupled"},
        Torch("torch.optim", "NAdam", **given, decoupled_weight_decay=True),
    ),
    "keras": Golden(
        {**given, "lr": 2**-6, "weight_decay": 0.0, "momentum_decay": 1.0},
        Keras("Nadam", learning_rate=2**-6, beta_1=0.85, beta_2=0.97, epsilon=1e-6),
    ),
    "optax": Golden(
        {**given, "weight_decay": 0.0, "momentum_decay": 1e6},
        Optax(lambda o: o.nadam(0.01, 0.85, 0.97, 1e-6)),
    ),
    "optax nadamw": Golden(
        {**given, "weight_decay": 0.3, "momentum_decay": 1e6, "decay": "decoupled"},
        Optax(lambda o: o.nadamw(0.01, 0.85, 0.97, 1e-6, weight_decay=0.3)),
    ),
}
