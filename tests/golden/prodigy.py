"""Beside its authors' Prodigy, and optax', which always corrects. Sums are in another order there."""

from golden import Golden
from golden.peers import Optax, Torch

SHAPES = (1, 7, 33, (5, 3), (40, 30))
SHARED = {"lr": 0.7, "weight_decay": 0.1, "d0": 1e-3, "d_coef": 2.0}

ROWS = {
    name: Golden({**SHARED, **flags}, Torch("prodigyopt", "Prodigy", **SHARED, **flags), SHAPES, ulp=64)
    for name, flags in {
        "plain": {},
        "both": {"use_bias_correction": True, "safeguard_warmup": True},
        "slow": {"beta3": 0.75, "growth_rate": 1.25},
    }.items()
} | {
    "coupled": Golden(
        {**SHARED, "decay": "coupled"}, Torch("prodigyopt", "Prodigy", **SHARED, decouple=False), SHAPES, ulp=64
    ),
    "optax": Golden(
        SHARED | {"use_bias_correction": True},
        Optax(lambda o: o.contrib.prodigy(0.7, estim_lr0=1e-3, estim_lr_coef=2.0, weight_decay=0.1)),
        SHAPES,
        ulp=64,
    ),
}
