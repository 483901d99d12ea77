"""Beside the authors' schedule-free AdamW, whose `train` must be called first."""

from golden import Golden
from golden.peers import Torch


def peer(**arguments):
    return Torch("schedulefree", "AdamWScheduleFree", before=lambda opt: opt.train(), **arguments)


SHARED = {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.3}
ROWS = {
    "plain": Golden(SHARED, peer(**SHARED)),
    "warm": Golden(given := SHARED | {"warmup_steps": 5, "r": 0.5, "weight_lr_power": 1.5}, peer(**given)),
}
