"""Beside optax' and Keras' Muon; torch's, which multiplies in bfloat16, is in test_phase_peers.py.

The products of matrices are summed in another order by each library, and five iterations pass their roundings on.
"""

from golden import Golden
from golden.peers import Keras, Optax

SHAPES = ((1, 7), (5, 3), (16, 16), (8, 33))
ULP = 100

ROWS = {
    "optax": Golden(
        {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.3, "rows_are_inputs": True},
        Optax(lambda optax: optax.contrib.muon(0.02, beta=0.9, weight_decay=0.3, nesterov=False)),
        SHAPES,
        ("float32",),
        ULP,
    ),
    "keras": Golden(
        {"lr": 2**-6, "momentum": 0.9, "weight_decay": 0.25, "nesterov": True, "match_rms_adamw": True},
        Keras("Muon", learning_rate=2**-6, momentum=0.9, weight_decay=0.25),
        SHAPES,
        ("float32",),
        ULP,
    ),
}
