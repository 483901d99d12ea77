"""Beside torch's and bitsandbytes' Adagrad, and optax' with ε under the root."""

from golden import Golden
from golden.peers import Keras, Optax, Torch

ROWS = {
    "plain": Golden(
        given := {"lr": 0.05, "weight_decay": 0.03, "initial_accumulator_value": 0.2, "lr_decay": 0.1, "eps": 1e-6},
        Torch("torch.optim", "Adagrad", **given),
    ),
    "eps_inside": Golden(
        {"lr": 0.05, "weight_decay": 0.03, "initial_accumulator_value": 0.1, "eps": 1e-3, "eps_inside": True},
        Optax(lambda o: o.chain(o.add_decayed_weights(0.03), o.adagrad(0.05, 0.1, 1e-3))),
    ),
    "keras": Golden(
        {"lr": 2**-6, "initial_accumulator_value": 0.1, "eps": 1e-3, "eps_inside": True},
        Keras("Adagrad", learning_rate=2**-6, initial_accumulator_value=0.1, epsilon=1e-3),
    ),
    "bitsandbytes": Golden(
        decayed := {"lr": 0.05, "weight_decay": 0.03},
        Torch("bitsandbytes.optim", "Adagrad", **decayed),
        dtypes=("float32",),
    ),
}
