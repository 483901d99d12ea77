"""Beside torch's RAdam: rectified from the sixth step on."""

from golden import Golden
from golden.peers import Optax, Torch

ROWS = {
    "plain": Golden(
        given := {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.03},
        Torch("torch.optim", "RAdam", **given),
    ),
    "decoupled": Golden(
        {**given, "decay": "decoupled"}, Torch("torch.optim", "RAdam", **given, decoupled_weight_decay=True)
    ),
    "optax": Golden(
        {**given, "eps": 1e-3, "weight_decay": 0.0, "eps_outside": True, "threshold": 6.5},
        Optax(lambda o: o.radam(0.01, 0.85, 0.97, 1e-3, threshold=6.5)),
    ),
}
