"""Beside torch's Rprop: signs flip often, and step sizes reach both ends. It has no L2 term, which is added here."""

from __future__ import annotations

import numpy as np

from golden import Golden
from golden.peers import Optax, Torch


class Decayed(Torch):
    """With an L2 term of λ = 0.03."""

    def step(self, grads: list[np.ndarray]) -> list[np.ndarray]:
        weights = [p.detach().numpy() for p in self.weights]
        return super().step([g + 0.03 * w for g, w in zip(grads, weights, strict=True)])


ROWS = {
    "plain": Golden(given := {"lr": 0.01}, Torch("torch.optim", "Rprop", **given)),
    "narrow": Golden(
        given := {"lr": 0.01, "etas": (0.4, 1.5), "step_sizes": (0.004, 0.03)}, Torch("torch.optim", "Rprop", **given)
    ),
    "optax": Golden(
        {"lr": 0.01, "etas": (0.4, 1.5), "step_sizes": (0.004, 0.03), "one_late": True},
        Optax(lambda o: o.rprop(0.01, 0.4, 1.5, 0.004, 0.03)),
    ),
    "decayed": Golden({"lr": 0.01, "weight_decay": 0.03}, Decayed("torch.optim", "Rprop", lr=0.01)),
}
