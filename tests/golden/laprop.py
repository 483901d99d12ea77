"""Beside timm's LaProp, whose decay comes after the step, and which weighs steps by their learning rates."""

from golden import Golden
from golden.peers import Scheduled, Torch, falling

GIVEN = {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.3}
TIMM = Torch("timm.laprop", "LaProp", **GIVEN)

ROWS = {
    "falling": Golden({**GIVEN, "lr": falling(0.02), "lr_in_mean": True}, Scheduled(TIMM, falling(0.02))),
    "plain": Golden(GIVEN, TIMM),
}
