"""Beside torch's Adadelta."""

from golden import Golden
from golden.peers import Keras, Optax, Torch

ROWS = {
    "plain": Golden(
        given := {"lr": 0.5, "rho": 0.8, "eps": 1e-4, "weight_decay": 0.03}, Torch("torch.optim", "Adadelta", **given)
    ),
    "keras": Golden({**given, "weight_decay": 0.0}, Keras("Adadelta", learning_rate=0.5, rho=0.8, epsilon=1e-4)),
    "optax": Golden({**given, "weight_decay": 0.0}, Optax(lambda o: o.adadelta(0.5, 0.8, 1e-4))),
}
