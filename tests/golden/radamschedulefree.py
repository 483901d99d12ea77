"""Beside the authors' schedule-free RAdam, whose `train` must be called first; ρ passes 4 within the twelve steps."""

from golden import Golden
from golden.peers import Torch


def peer(**arguments):
    return Torch("schedulefree", "RAdamScheduleFree", before=lambda opt: opt.train(), **arguments)


SHARED = {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.3, "r": 0.5}
ROWS = {
    "silent": Golden(SHARED, peer(**SHARED)),
    "loud": Golden(SHARED | {"sgd_phase": True}, peer(silent_sgd_phase=False, **SHARED)),
}
