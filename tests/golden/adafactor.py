"""Beside torch's, Keras', optax' and transformers' Adafactor. Sums are in another order there."""

from golden import Golden
from golden.peers import Keras, Optax, Torch

SHAPES = (1, 7, 33, (5, 3), (40, 30), (2, 3, 4))
SHARED = {"lr": 0.3, "d": 1.5, "beta2_decay": -0.5, "weight_decay": 0.1}

ROWS = {
    "torch": Golden(
        {**SHARED, "eps": (1e-4, 0.1)},
        Torch("torch.optim", "Adafactor", eps=(1e-4, 0.1), **SHARED),
        SHAPES,
        ulp=64,
    ),
    "keras": Golden(  # as optax, it works out the new gradient's share in float32
        {"lr": 2**-6, "eps": (1e-30, 1e-3)},
        Keras("Adafactor", learning_rate=2**-6),
        SHAPES,
        ("float32",),
        ulp=64,
    ),
    "keras, decayed": Golden(
        {"lr": 2**-6, "eps": (1e-30, 1e-3), "weight_decay": 0.25, "decay": "decoupled"},
        Keras("Adafactor", learning_rate=2**-6, weight_decay=0.25),
        SHAPES,
        ("float32",),
        ulp=64,
    ),
    "optax": Golden(
        {"lr": 0.01, "eps": (1e-30, 1e-3), "weight_decay": 0.3},
        Optax(lambda o: o.adafactor(0.01, min_dim_size_to_factor=1, weight_decay_rate=0.01 * 0.3)),
        SHAPES,
        ("float32",),
        ulp=64,
    ),
    "transformers": Golden(
        {"lr": 0.02, "eps": (1e-30, 1e-3)},
        Torch("transformers.optimization", "Adafactor", lr=0.02, relative_step=False),
        SHAPES,
        ulp=64,
    ),
}
