"""Beside optax' and pytorch_optimizer's Yogi."""

from golden import Golden
from golden.peers import Optax, Torch

ROWS = {
    "plain": Golden(
        {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-3, "weight_decay": 0.03},
        Optax(lambda o: o.chain(o.add_decayed_weights(0.03), o.yogi(0.01, 0.85, 0.97, 1e-3))),
    ),
    "pytorch_optimizer": Golden(
        {"lr": 0.01, "weight_decay": 0.03},
        Torch("pytorch_optimizer", "Yogi", lr=0.01, weight_decay=0.03, weight_decouple=False),
    ),
}
