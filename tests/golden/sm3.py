"""Beside optax' SM3, and pytorch_optimizer's, which has another ε and no momentum."""

from golden import Golden
from golden.peers import Optax, Torch

SHAPES = ((1, 7), (5, 3), (16, 16), (8, 33), (40, 1), (33,), (3, 1100))

ROWS = {
    "optax": Golden(
        {"lr": 0.05, "momentum": 0.8},
        Optax(lambda optax: optax.sm3(0.05, momentum=0.8)),
        SHAPES,
    ),
    "decayed": Golden(
        {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.03},
        Optax(lambda optax: optax.chain(optax.add_decayed_weights(0.03), optax.sm3(0.05, momentum=0.8))),
        SHAPES,
        dtypes=("float32",),
    ),
    "forgetting": Golden(
        {"lr": 0.05, "momentum": 0.8, "beta2": 0.9, "eps": 1e-3},
        Optax(lambda optax: optax.chain(optax.scale_by_sm3(0.8, 0.9, 1e-3), optax.scale(-0.05))),
        SHAPES,
    ),
    "pytorch_optimizer": Golden(
        {"lr": 0.05, "momentum": 0.0, "eps": 1e-30}, Torch("pytorch_optimizer", "SM3", lr=0.05), SHAPES
    ),
    "pytorch_optimizer, momentum": Golden(
        {"lr": 0.05, "momentum": 0.7, "eps": 1e-6},
        Torch("pytorch_optimizer", "SM3", lr=0.05, momentum=0.7, eps=1e-6),
        SHAPES,
    ),
}
