"""Beside optax' DoG, each way of starting."""

from golden import Golden
from golden.peers import Optax

ARGUMENTS = {"lr": 0.5, "weight_decay": 0.03, "eps": 50.0}


def dog(**arguments: object) -> Optax:
    return Optax(lambda optax: optax.contrib.dog(0.5, eps=50.0, weight_decay=0.03, **arguments))


ROWS = {
    "relative": Golden(ARGUMENTS | {"relative": 1e-2}, dog(init_step=("heuristic", 1e-2))),
    "distance": Golden(ARGUMENTS | {"distance": 0.5}, dog(init_step=("distance", 0.5))),
    "rate": Golden(ARGUMENTS | {"first_rate": 1e-3}, dog(init_step=("learning_rate", 1e-3))),
    "defaults": Golden({"weight_decay": 0.3}, Optax(lambda optax: optax.contrib.dog(weight_decay=0.3))),
}
