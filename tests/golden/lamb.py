"""Beside optax' Lamb. Norms are summed in another order by each library."""

from golden import Golden
from golden.peers import Optax

SHAPES = (1, 7, 33, (5, 3), (40, 30))

ROWS = {
    "optax": Golden(
        {"lr": 0.01, "weight_decay": 0.1},
        Optax(lambda optax: optax.lamb(0.01, weight_decay=0.1)),
        SHAPES,
        dtypes=("float32",),
        ulp=32,
    ),
}
