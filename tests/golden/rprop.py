"""Beside torch's Rprop: signs flip often, and step sizes reach both ends."""

from golden import Golden
from golden.peers import Torch

ROWS = {
    "plain": Golden(given := {"lr": 0.01}, Torch("torch.optim", "Rprop", **given)),
    "narrow": Golden(
        given := {"lr": 0.01, "etas": (0.4, 1.5), "step_sizes": (0.004, 0.03)}, Torch("torch.optim", "Rprop", **given)
    ),
}
