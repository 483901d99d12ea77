"""Beside torch's and timm's AdamW."""

from golden import Golden
from golden.peers import Torch

ROWS = {
    "timm": Golden({"lr": 0.01, "weight_decay": 0.3}, Torch("timm.adamw", "AdamWLegacy", lr=0.01, weight_decay=0.3)),
    "amsgrad": Golden(
        {"lr": 0.01, "weight_decay": 0.3, "amsgrad": True},
        Torch("torch.optim", "AdamW", lr=0.01, weight_decay=0.3, amsgrad=True),
    ),
}
