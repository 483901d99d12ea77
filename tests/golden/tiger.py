"""Beside pytorch_optimizer's Tiger."""

from golden import Golden
from golden.peers import Torch

ROWS = {
    "plain": Golden(
        given := {"lr": 0.01, "beta": 0.9, "weight_decay": 0.3}, Torch("pytorch_optimizer", "Tiger", **given)
    ),
}
