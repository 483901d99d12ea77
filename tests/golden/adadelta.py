"""Beside torch's Adadelta."""

from golden import Golden
from golden.peers import Torch

ROWS = {
    "plain": Golden(
        given := {"lr": 0.5, "rho": 0.8, "eps": 1e-4, "weight_decay": 0.03}, Torch("torch.optim", "Adadelta", **given)
    ),
}
