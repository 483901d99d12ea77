"""Beside its authors' Prodigy, and optax', which always corrects. Sums are in another order there.

An L2 term, where there is one, is such that gradients agree and d grows.
"""

from golden import Golden
from golden.peers import Optax, Torch

SHAPES = (1, 7, 33, (5, 3), (40, 30))
SHARED = {"lr": 0.7, "weight_decay": 0.1, "d0": 1e-3, "d_coef": 0.5}
AGREEING = SHARED | {"weight_decay": 3.0}

ROWS = {
    **{
        name: Golden({**SHARED, **given}, Torch("prodigyopt", "Prodigy", **{**SHARED, **given}), SHAPES, ulp=64)
        for name, given in {
            "plain": {},
            "corrected": {"use_bias_correction": True},
            "safeguarded": {"safeguard_warmup": True},
        }.items()
    },
    "optax": Golden(
        AGREEING | {"use_bias_correction": True, "decay": "coupled"},
        Optax(lambda o: o.chain(o.add_decayed_weights(3.0), o.contrib.prodigy(0.7, estim_lr0=1e-3, estim_lr_coef=0.5))),
        SHAPES,
        ulp=64,
    ),
} | {
    name: Golden(
        {**AGREEING, "decay": "coupled", **given},
        Torch("prodigyopt", "Prodigy", decouple=False, **{**AGREEING, **given}),
        SHAPES,
        ulp=64,
    )
    for name, given in {
        "coupled": {},
        "both": {"d_coef": 8.0, "use_bias_correction": True, "safeguard_warmup": True},
        "slow": {"beta3": 0.75, "growth_rate": 1.25},
    }.items()
}
