"""Beside pytorch_optimizer's QHAdam."""

from golden import Golden
from golden.peers import Exact

ROWS = {
    "plain": Golden(
        given := {"lr": 0.01, "betas": (0.85, 0.97), "nus": (0.7, 0.9), "eps": 1e-6, "weight_decay": 0.03},
        Exact("pytorch_optimizer", "QHAdam", **given),
    ),
}
