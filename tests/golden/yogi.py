"""Beside optax' Yogi."""

from golden import Golden
from golden.peers import Optax

ROWS = {
    "plain": Golden(
        {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-3, "weight_decay": 0.03},
        Optax(lambda o: o.chain(o.add_decayed_weights(0.03), o.yogi(0.01, 0.85, 0.97, 1e-3))),
        dtypes=("float32",),
    ),
}
