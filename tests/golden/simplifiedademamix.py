"""Beside optax' simplified AdEMAMix."""

from golden import Golden
from golden.peers import Optax

ROWS = {
    "optax": Golden(
        {"lr": 2e-3, "weight_decay": 0.3, "alpha": 2.5},
        Optax(lambda o: o.contrib.simplified_ademamix(2e-3, alpha=2.5, weight_decay=0.3)),
    ),
    "default-alpha": Golden(
        {"lr": 2e-3, "betas": (0.9, 0.97), "weight_decay": 0.3},
        Optax(lambda o: o.contrib.simplified_ademamix(2e-3, 0.9, 0.97, weight_decay=0.3)),
    ),
}
