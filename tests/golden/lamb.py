"""Beside optax', timm's and Keras' Lamb. Norms are summed in another order by each library."""

from written_peers import DeepSpeedLamb

from golden import Golden
from golden.peers import Keras, Optax, Torch, Written

SHAPES = (1, 7, 33, (5, 3), (40, 30))

ROWS = {
    "timm, LAMBC": Golden(
        {"lr": 0.01, "weight_decay": 0.1, "trust_clip": True, "adapt_decayed": True},
        Torch("timm.lamb", "Lamb", lr=0.01, weight_decay=0.1, trust_clip=True, max_grad_norm=None),
        SHAPES,
        ulp=32,
    ),
    "optax": Golden(
        {"lr": 0.01, "weight_decay": 0.1},
        Optax(lambda optax: optax.lamb(0.01, weight_decay=0.1)),
        SHAPES,
        ulp=32,
    ),
    "timm": Golden(
        {"lr": 0.01, "weight_decay": 0.1},
        Torch("timm.lamb", "Lamb", lr=0.01, weight_decay=0.1, max_grad_norm=None),
        SHAPES,
        ulp=32,
    ),
    "deepspeed": Golden(  # ratios are below, between and above
        {"lr": 0.01, "weight_decay": 0.1, "trust_min": 4.0, "trust_max": 5.0},
        Written(DeepSpeedLamb, lr=0.01, eps=1e-6, weight_decay=0.1, min_coeff=4.0, max_coeff=5.0),
        SHAPES,
        ulp=32,
    ),
    "keras": Golden(
        {"lr": 2**-6, "betas": (0.875, 0.96875), "eps": 2**-10, "weight_decay": 0.25, "decay": "decoupled"},
        Keras("Lamb", learning_rate=2**-6, beta_1=0.875, beta_2=0.96875, epsilon=2**-10, weight_decay=0.25),
        SHAPES,
        ulp=32,
    ),
    "timm, clipped": Golden(  # it divides by ‖g‖ alone; 1e-6 less is little here
        {"lr": 0.01, "weight_decay": 0.1, "clip_norm": 1.0},
        Torch("timm.lamb", "Lamb", lr=0.01, weight_decay=0.1),
        SHAPES,
        dtypes=("float32",),
        ulp=32,
    ),
}
