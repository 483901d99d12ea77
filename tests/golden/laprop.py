"""Beside timm's LaProp, whose decay comes after the step, and which weighs steps by their learning rates."""

from __future__ import annotations

from golden import Arrays, Golden
from golden.peers import Torch

GIVEN = {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.3}


def falling(t: int) -> float:
    """A learning rate."""
    return 0.02 * 0.8**t


class Falling:
    """timm's, with a learning rate that falls."""

    def start(self, params: Arrays) -> None:
        self.peer, self.steps = Torch("timm.laprop", "LaProp", **GIVEN), 0
        self.peer.start(params)

    def step(self, grads: Arrays) -> Arrays:
        self.peer.optimizer.param_groups[0]["lr"] = falling(self.steps)
        self.steps += 1
        return self.peer.step(grads)


ROWS = {
    "falling": Golden({**GIVEN, "lr": falling, "lr_in_mean": True}, Falling()),
    "plain": Golden(GIVEN, Torch("timm.laprop", "LaProp", **GIVEN)),
}
