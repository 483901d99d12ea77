"""Beside optax' DoWG."""

from golden import Golden
from golden.peers import Optax

ROWS = {
    "defaults": Golden({"weight_decay": 0.03}, Optax(lambda optax: optax.contrib.dowg(weight_decay=0.03))),
    "distance": Golden(
        {"lr": 0.5, "weight_decay": 0.03, "distance_squared": 1e-2, "eps": 1e-3},
        Optax(lambda optax: optax.contrib.dowg(0.5, init_estim_sq_dist=1e-2, eps=1e-3, weight_decay=0.03)),
    ),
}
