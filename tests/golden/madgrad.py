"""Beside timm's, pytorch_optimizer's and optax' MADGRAD."""

from golden import Golden
from golden.peers import Optax, Torch

ROWS = {
    "timm": Golden({"lr": 0.01, "weight_decay": 0.03}, Torch("timm.madgrad", "MADGRAD", lr=0.01, weight_decay=0.03)),
    "large-eps": Golden(
        {"lr": 0.01, "momentum": 0.6, "eps": 0.02, "weight_decay": 0.03},
        Torch("pytorch_optimizer", "MADGRAD", lr=0.01, momentum=0.6, eps=0.02, weight_decay=0.03),
    ),
    "optax": Golden(
        {"lr": 0.01, "weight_decay": 0.03},
        Optax(lambda o: o.chain(o.add_decayed_weights(0.03), o.contrib.madgrad(0.01))),
        dtypes=("float32",),  # in float64 it shows that ε joins the learning rate
    ),
    "decoupled": Golden(
        {"lr": 0.01, "weight_decay": 0.3, "decay": "decoupled"},
        Torch("timm.madgrad", "MADGRAD", lr=0.01, weight_decay=0.3, decoupled_decay=True),
    ),
}
