"""Beside optax', pytorch_optimizer's and bitsandbytes' AdEMAMix, within and past the rise of α and β₃."""

from fastupdate import schedules
from golden import Golden
from golden.peers import Optax, Torch

ROWS = {
    "optax": Golden(
        {"lr": 0.01, "betas": (0.85, 0.97), "beta3": 0.99, "weight_decay": 0.3},
        Optax(lambda o: o.contrib.ademamix(0.01, 0.85, 0.97, 0.99, weight_decay=0.3)),
    ),
    "optax-schedule": Golden(
        {"lr": 0.01, "betas": (0.85, 0.97), "alpha": schedules.linear(0.0, 8, 5.0), "weight_decay": 0.3},
        Optax(lambda o: o.contrib.ademamix(0.01, 0.85, 0.97, alpha=o.linear_schedule(0.0, 5.0, 8), weight_decay=0.3)),
    ),
    "rising": Golden(
        {"lr": 0.01, "betas": (0.85, 0.97), "beta3": 0.99, "t_alpha": 8, "t_beta3": 8, "weight_decay": 0.3},
        Torch(
            "pytorch_optimizer", "AdEMAMix",
            lr=0.01, betas=(0.85, 0.97, 0.99), t_alpha_beta3=8, weight_decay=0.3, weight_decouple=True,
        ),
    ),
    "coupled": Golden(
        {"lr": 0.01, "weight_decay": 0.03, "decay": "coupled", "t_alpha": 100, "t_beta3": 100},
        Torch("pytorch_optimizer", "AdEMAMix", lr=0.01, t_alpha_beta3=100, weight_decay=0.03),
    ),
    "bitsandbytes": Golden(  # by its default it decays; on the CPU it computes in float32
        {"lr": 0.01, "betas": (0.85, 0.97), "beta3": 0.99, "weight_decay": 0.01},
        Torch("bitsandbytes.optim", "AdEMAMix", lr=0.01, betas=(0.85, 0.97, 0.99)),
        dtypes=("float32",),
    ),
    "bitsandbytes, rising": Golden(  # α and β₃ for as long as each is told
        {"lr": 0.01, "betas": (0.85, 0.97), "beta3": 0.99, "t_alpha": 4, "t_beta3": 8, "weight_decay": 0.3},
        Torch(
            "bitsandbytes.optim", "AdEMAMix",
            lr=0.01, betas=(0.85, 0.97, 0.99), t_alpha=4, t_beta3=8, weight_decay=0.3,
        ),
        dtypes=("float32",),
    ),
}  # fmt: skip
