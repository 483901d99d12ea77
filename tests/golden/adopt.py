"""Beside optax', timm's and pytorch_optimizer's ADOPT: each clips to a power of its own. All leave step 1 out."""

from golden import Golden
from golden.peers import Optax, Torch

ROWS = {
    "optax": Golden(
        {"lr": 0.01, "betas": (0.85, 0.97), "weight_decay": 0.03},
        Optax(lambda o: o.chain(o.add_decayed_weights(0.03), o.contrib.adopt(0.01, 0.85, 0.97))),
    ),
    "timm": Golden(
        {"lr": 0.01, "clip_exp": 0.333, "weight_decay": 0.03},
        Torch("timm.adopt", "Adopt", lr=0.01, weight_decay=0.03),
    ),
    "timm-paper": Golden(
        {"lr": 0.01, "eps": 1.5, "weight_decay": 0.03},
        Torch("timm.adopt", "Adopt", lr=0.01, eps=1.5, clip_exp=0.25, weight_decay=0.03),
    ),
    "pytorch_optimizer": Golden(
        {"lr": 0.01, "clip_shift": 1, "weight_decay": 0.03},
        Torch("pytorch_optimizer", "ADOPT", lr=0.01, weight_decay=0.03),
    ),
    "decoupled": Golden(
        {"lr": 0.01, "clip_shift": 1, "weight_decay": 0.3, "decay": "decoupled"},
        Torch("pytorch_optimizer", "ADOPT", lr=0.01, weight_decay=0.3, weight_decouple=True),
    ),
    "timm, decoupled": Golden(
        {"lr": 0.01, "clip_exp": 0.333, "weight_decay": lambda t: 0.3 if t else 0.0, "decay": "decoupled"},
        Torch("timm.adopt", "Adopt", lr=0.01, weight_decay=0.3, decoupled=True),
    ),
    "without_clip": Golden(
        {"lr": 0.01, "weight_decay": 0.03, "without_clip": True},
        Torch("timm.adopt", "Adopt", lr=0.01, clip_exp=None, weight_decay=0.03),
    ),
}
