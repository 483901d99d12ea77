"""Beside torch's, optax' and bitsandbytes' descent."""

from golden import Golden
from golden.peers import Mlx, Optax, Torch

PLAIN = {"lr": 0.05, "weight_decay": 0.03}
NESTEROV = {**PLAIN, "momentum": 0.9, "nesterov": True}

ROWS = {
    "plain": Golden(PLAIN, Torch("torch.optim", "SGD", **PLAIN)),
    "nesterov": Golden(NESTEROV, Torch("torch.optim", "SGD", **NESTEROV)),
    "mlx": Golden(
        {**PLAIN, "momentum": 0.9, "dampening": 0.4, "dampen_first": True},
        Mlx("SGD", learning_rate=0.05, weight_decay=0.03, momentum=0.9, dampening=0.4),
        dtypes=("float32",),
    ),
    "optax": Golden(
        PLAIN,
        Optax(lambda optax: optax.chain(optax.add_decayed_weights(0.03), optax.sgd(0.05))),
    ),
    "bitsandbytes": Golden(
        {**PLAIN, "momentum": 0.9}, Torch("bitsandbytes.optim", "SGD", momentum=0.9, **PLAIN), dtypes=("float32",)
    ),
}
