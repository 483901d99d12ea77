"""Beside optax' AdaBelief, and timm's where it does not rectify."""

from golden import Golden
from golden.peers import Optax, Torch

ROWS = {
    "plain": Golden(
        {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "eps_root": 1e-4, "weight_decay": 0.03},
        Optax(lambda o: o.chain(o.add_decayed_weights(0.03), o.adabelief(0.01, 0.85, 0.97, 1e-6, 1e-4))),
    ),
    "timm, rectified": Golden(
        {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-8, "eps_root": 1e-8, "weight_decay": 0.03, "rectify": True},
        Torch(
            "timm.adabelief", "AdaBelief", lr=0.01, betas=(0.85, 0.97), eps=1e-8, weight_decay=0.03,
            decoupled_decay=False, rectify=True,
        ),
    ),
    "timm": Golden(
        {"lr": 0.01, "weight_decay": 0.03},
        Torch("timm.adabelief", "AdaBelief", lr=0.01, weight_decay=0.03, decoupled_decay=False, rectify=False),
    ),
}  # fmt: skip
