"""Beside optax' sign_sgd and pytorch_optimizer's SignSGD."""

from golden import Golden
from golden.peers import Optax, Torch

ROWS = {
    "plain": Golden(
        {"lr": 0.01, "weight_decay": 0.3},
        Optax(lambda o: o.chain(o.add_decayed_weights(0.3), o.sign_sgd(0.01))),
    ),
    "momentum": Golden(
        given := {"lr": 0.01, "momentum": 0.8, "weight_decay": 0.3},
        Torch("pytorch_optimizer", "SignSGD", **given, weight_decouple=False),
    ),
}
