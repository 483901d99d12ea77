"""Beside torch's, optax' and Keras' Muon, torch's in the weights' type instead of bfloat16.

The products of matrices are summed in another order by each library, and five iterations pass their roundings on.
"""

from unittest import mock

from peers import peer

from golden import Arrays, Golden
from golden.peers import Keras, Optax, Torch

SHAPES = ((1, 7), (5, 3), (16, 16), (8, 33))
ULP = 100
SHARED = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}


class Wide(Torch):
    """torch's, which multiplies in bfloat16: in the type of the weights."""

    def step(self, grads: Arrays) -> Arrays:
        tensor = peer("torch").Tensor
        with mock.patch.object(tensor, "bfloat16", tensor.clone):
            return super().step(grads)


ROWS = {
    "optax": Golden(  # in float64 its default ε would show
        {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.3, "rows_are_inputs": True},
        Optax(lambda optax: optax.contrib.muon(0.02, beta=0.9, weight_decay=0.3, nesterov=False, eps=0.0)),
        SHAPES,
        ulp=ULP,
    ),
    "keras": Golden(
        {"lr": 2**-6, "momentum": 0.9, "weight_decay": 0.25, "nesterov": True, "match_rms_adamw": True},
        Keras("Muon", learning_rate=2**-6, momentum=0.9, weight_decay=0.25),
        SHAPES,
        ("float32",),
        ULP,
    ),
} | {
    f"torch{', nesterov' * nesterov}{', scaled' * scaled}": Golden(
        SHARED | {"nesterov": nesterov, "match_rms_adamw": scaled},
        Wide("torch.optim", "Muon", nesterov=nesterov, adjust_lr_fn="match_rms_adamw" if scaled else None, **SHARED),
        SHAPES,
        ulp=ULP,
    )
    for nesterov in (False, True)
    for scaled in (False, True)
}
