"""Beside timm's and optax' LARS.

The weights are long enough, and the rates low enough, that steps are not lost in rounding.
"""

from golden import Golden
from golden.peers import Optax, Torch, falling

PLAIN = {"lr": 2.0, "momentum": 0.8, "weight_decay": 0.03, "trust": 0.01, "eps": 0.5}
THEIRS = {"lr": 2.0, "momentum": 0.8, "weight_decay": 0.03, "trust_coeff": 0.01, "eps": 0.5}


ROWS = {
    "timm": Golden(PLAIN, Torch("timm.lars", "Lars", **THEIRS)),
    "nesterov": Golden(PLAIN | {"nesterov": True}, Torch("timm.lars", "Lars", nesterov=True, **THEIRS)),
    # without decay the ratio is 1 unless always_adapt
    "no decay": Golden(
        {"lr": 0.01, "momentum": 0.8, "weight_decay": 0.0}, Torch("timm.lars", "Lars", lr=0.01, momentum=0.8)
    ),
    "always": Golden(
        {"lr": 0.1, "momentum": 0.8, "always_adapt": True, "trust": 0.01},
        Torch("timm.lars", "Lars", lr=0.1, momentum=0.8, always_adapt=True, trust_coeff=0.01),
    ),
    "larc": Golden(  # ratios on both sides of α
        PLAIN | {"lr": 0.02, "trust": 0.02, "trust_clip": True},
        Torch("timm.lars", "Lars", **THEIRS | {"lr": 0.02, "trust_coeff": 0.02}, trust_clip=True),
    ),
    "optax, falling": Golden(
        {"lr": falling(0.125), "momentum": 0.8, "trust": 0.01, "eps": 0.0, "weight_decay": 0.03}
        | dict.fromkeys(("always_adapt", "lr_in_buffer", "joint_norm"), True),
        Optax(lambda optax: optax.lars(falling(0.125), weight_decay=0.03, trust_coefficient=0.01, momentum=0.8)),
    ),
    "optax": Golden(
        {"lr": 0.1, "momentum": 0.8, "trust": 0.01, "eps": 0.0, "always_adapt": True, "nesterov": True},
        Optax(lambda optax: optax.lars(0.1, trust_coefficient=0.01, momentum=0.8, nesterov=True)),
    ),
}
