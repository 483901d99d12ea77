"""Beside lion_pytorch, optax and bitsandbytes."""

from golden import Golden
from golden.peers import Optax, Torch

ROWS = {
    "plain": Golden(
        given := {"lr": 0.01, "betas": (0.85, 0.97), "weight_decay": 0.3}, Torch("lion_pytorch", "Lion", **given)
    ),
    "optax": Golden(given, Optax(lambda o: o.lion(0.01, 0.85, 0.97, weight_decay=0.3))),
    "bitsandbytes": Golden(given, Torch("bitsandbytes.optim", "Lion", **given), dtypes=("float32",)),
}
