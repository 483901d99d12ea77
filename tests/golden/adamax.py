"""Beside torch's Adamax."""

from golden import Golden
from golden.peers import Keras, Mlx, Optax, Torch

ROWS = {
    "plain": Golden(
        given := {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-3, "weight_decay": 0.03},
        Torch("torch.optim", "Adamax", **given),
    ),
    "eps_outside": Golden(
        {"lr": 2**-6, "betas": (0.85, 0.97), "eps": 1e-3, "weight_decay": 0.0, "eps_outside": True},
        Keras("Adamax", learning_rate=2**-6, beta_1=0.85, beta_2=0.97, epsilon=1e-3),
    ),
    "mlx": Golden(
        {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-3, "eps_outside": True, "uncorrected": True},
        Mlx("Adamax", learning_rate=0.01, betas=[0.85, 0.97], eps=1e-3),
        dtypes=("float32",),
    ),
    "optax": Golden({**given, "weight_decay": 0.0}, Optax(lambda o: o.adamax(0.01, 0.85, 0.97, 1e-3))),
}
