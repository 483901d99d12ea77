"""Beside optax' AdaBelief."""

from golden import Golden
from golden.peers import Optax

ROWS = {
    "plain": Golden(
        {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "eps_root": 1e-4, "weight_decay": 0.03},
        Optax(lambda o: o.chain(o.add_decayed_weights(0.03), o.adabelief(0.01, 0.85, 0.97, 1e-6, 1e-4))),
        dtypes=("float32",),
    ),
}
