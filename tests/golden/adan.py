"""Beside timm's, pytorch_optimizer's and optax' Adan. The former round 1 + αλ, which divides: it is exact here."""

from golden import Golden
from golden.peers import Optax, Torch

ROWS = {
    "timm": Golden({"lr": 2**-6, "weight_decay": 0.25}, Torch("timm.adan", "Adan", lr=2**-6, weight_decay=0.25)),
    "no_prox": Golden(
        {"lr": 0.01, "betas": (0.9, 0.8), "beta3": 0.95, "eps": 1e-6, "weight_decay": 0.3, "no_prox": True},
        Torch("timm.adan", "Adan", lr=0.01, betas=(0.9, 0.8, 0.95), eps=1e-6, weight_decay=0.3, no_prox=True),
    ),
    "pytorch_optimizer": Golden(
        {"lr": 2**-6, "weight_decay": 0.25},
        Torch("pytorch_optimizer", "Adan", lr=2**-6, weight_decay=0.25),
    ),
    "pytorch_optimizer-decoupled": Golden(
        {"lr": 0.01, "weight_decay": 0.3, "no_prox": True},
        Torch("pytorch_optimizer", "Adan", lr=0.01, weight_decay=0.3, weight_decouple=True),
    ),
    "optax": Golden(
        {"lr": 0.01, "weight_decay": 0.3, "no_prox": True, "damped_change": True, "eps_root": 1e-8},
        Optax(lambda o: o.adan(0.01, weight_decay=0.3)),
    ),
}
