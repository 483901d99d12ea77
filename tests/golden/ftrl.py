"""Beside Keras' FTRL, whose l2 and shrinkage are half of ours. It holds numbers as float32: powers of two are exact."""

from golden import Golden
from golden.peers import Keras

ROWS = {
    "plain": Golden(
        {"lr": 2**-4, "beta": 0.0, "initial_accumulator_value": 0.125, "weight_decay": 2**-4},
        Keras("Ftrl", learning_rate=2**-4, initial_accumulator_value=0.125, l2_shrinkage_regularization_strength=2**-5),
        shapes=(1, 7, 16, 33, 1025),
    ),
    "power": Golden(
        {"beta": 0.0, "lr": 2**-4, "l1_strength": 1.0, "initial_accumulator_value": 0.125}
        | {"learning_rate_power": -0.75},
        Keras(
            "Ftrl", learning_rate=2**-4, learning_rate_power=-0.75, initial_accumulator_value=0.125,
            l1_regularization_strength=1.0,
        ),
        shapes=(1, 7, 16, 33, 1025),
    ),
    "all": Golden(
        {"lr": 2**-4, "beta": 0.75, "l1_strength": 6.0, "l2_strength": 0.5, "initial_accumulator_value": 0.125},
        Keras(
            "Ftrl", learning_rate=2**-4, beta=0.75, initial_accumulator_value=0.125,
            l1_regularization_strength=6.0, l2_regularization_strength=0.25,
        ),
        shapes=(1, 7, 16, 33, 1025),
    ),
}  # fmt: skip
