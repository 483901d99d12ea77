"""Beside torch's, optax', Keras' and timm's Muon, torch's and timm's in the weights' type instead of bfloat16.

The products of matrices are summed in another order by each library, and five iterations pass their roundings on.
"""

import sys
from functools import partial
from unittest import mock

from peers import peer

from golden import Arrays, Golden
from golden.peers import Keras, Optax, Torch

SHAPES = ((1, 7), (5, 3), (16, 16), (8, 33))
OF_TIMM = ((5, 4), (16, 16), (8, 33))  # it leaves those to AdamW that have a side below 4
OF_SIXTEEN = ((16, 16), (5, 16), (16, 7))
ULP = 100
SHARED = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
ITERATIONS = {"ns_coefficients": (3.0, -3.2, 1.2), "ns_steps": 4}


class Wide(Torch):
    """torch's, which multiplies in bfloat16: in the type of the weights."""

    def step(self, grads: Arrays) -> Arrays:
        tensor = peer("torch").Tensor
        with mock.patch.object(tensor, "bfloat16", tensor.clone):
            return super().step(grads)


class WideTimm(Torch):
    """timm's, likewise."""

    def step(self, grads: Arrays) -> Arrays:
        module, iterate = sys.modules[type(self.optimizer).__module__], "zeropower_via_newtonschulz"
        exact = partial(getattr(module, iterate), dtype=self.weights[0].dtype)
        with mock.patch.object(module, iterate, exact):
            return super().step(grads)


def of_optax(**arguments: object) -> Optax:
    return Optax(lambda optax: optax.contrib.muon(0.02, beta=0.9, weight_decay=0.3, **arguments))


OF_OPTAX = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.3, "rows_are_inputs": True}
AS_OPTAX = OF_OPTAX | {"corrected": True, "eps_added": 1e-3, "eps": 0.0}
OF_KERAS = {"lr": 2**-6, "momentum": 0.9, "weight_decay": 0.25, "nesterov": True, "match_rms_adamw": True}

ROWS = {
    "optax": Golden(OF_OPTAX, of_optax(nesterov=False, eps=0.0), SHAPES, ulp=ULP),
    "optax, corrected": Golden(AS_OPTAX, of_optax(nesterov=False, eps=1e-3), SHAPES, ulp=ULP),
    "optax, nesterov": Golden(AS_OPTAX | {"nesterov": True}, of_optax(eps=1e-3), SHAPES, ulp=ULP),
    "optax, rates": Golden(
        AS_OPTAX | {"nesterov": True, "match_rms_adamw": True, "rms_rate": 0.3, "quintic": True, "eps_added": 1e-8},
        of_optax(consistent_rms=0.3, ns_coeffs="dion"),
        SHAPES,
        ulp=ULP,
    ),
    "keras": Golden(
        OF_KERAS, Keras("Muon", learning_rate=2**-6, momentum=0.9, weight_decay=0.25), SHAPES, ("float32",), ULP
    ),
    "keras, told": Golden(
        {**OF_KERAS, **ITERATIONS, "rms_rate": 0.25, "eps": 0.0, "eps_added": 1e-8},
        Keras(
            "Muon",
            learning_rate=2**-6,
            momentum=0.9,
            weight_decay=0.25,
            muon_a=3.0,
            muon_b=-3.2,
            muon_c=1.2,
            ns_steps=4,
            rms_rate=0.25,
        ),
        SHAPES,
        ("float32",),
        ULP,
    ),
    "keras, no rate": Golden(
        OF_KERAS | {"rms_rate": 16**-0.5},
        Keras("Muon", learning_rate=2**-6, momentum=0.9, weight_decay=0.25, rms_rate=None),
        OF_SIXTEEN,
        ("float32",),
        ULP,
    ),
    "timm": Golden(
        {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.3, "match_rms_adamw": True, "quintic": True},
        WideTimm("timm.muon", "Muon", lr=0.02, momentum=0.9, weight_decay=0.3),
        OF_TIMM,
        ulp=ULP,
    ),
    "timm, told": Golden(
        {**SHARED, **ITERATIONS, "nesterov": True, "eps": 3.0},
        WideTimm("timm.muon", "Muon", nesterov=True, adjust_lr_fn="original", eps=3.0, **SHARED, **ITERATIONS),
        OF_TIMM,
        ulp=ULP,
    ),
    "timm, seven": Golden(
        {**SHARED, "quintic": True, "ns_steps": 7},
        WideTimm("timm.muon", "Muon", adjust_lr_fn="original", ns_steps=7, **SHARED),
        OF_TIMM,
        ulp=ULP,
    ),
    "torch, told": Golden(
        {**SHARED, **ITERATIONS, "eps": 3.0},
        Wide("torch.optim", "Muon", nesterov=False, eps=3.0, **SHARED, **ITERATIONS),
        SHAPES,
        ulp=ULP,
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
