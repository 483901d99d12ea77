"""Beside the authors' schedule-free SGD, whose `train` must be called first."""

from golden import Golden
from golden.peers import Torch


def peer(**arguments):
    return Torch("schedulefree", "SGDScheduleFree", before=lambda opt: opt.train(), **arguments)


ROWS = {
    "plain": Golden(given := {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.03}, peer(**given)),
    "warm": Golden(
        given := {"lr": 0.05, "weight_decay": 0.03, "warmup_steps": 5, "r": 0.5, "weight_lr_power": 1.5}, peer(**given)
    ),
}
