"""Beside torch's, Keras', optax', transformers' and timm's Adafactor. Sums are in another order there."""

from golden import Golden
from golden.peers import Keras, Optax, Scheduled, Torch, falling

SHAPES = (1, 7, 33, (5, 3), (40, 30), (2, 3, 4))
TO_THE_LONGEST = (1, 7, 33, (5, 3), (40, 30))  # of three axes optax and timm take the two longest
SHARED = {"lr": 0.3, "d": 1.5, "beta2_decay": -0.5, "weight_decay": 0.1}
ADDED = {"eps": (0.0, 1e-3), "eps_added": 1e-2}
AS_GIVEN = {**ADDED, "relative_step": False}
AS_OPTAX = {**AS_GIVEN, "unscaled_decay": True, "weight_decay": 0.01}
OF_OPTAX = {"min_dim_size_to_factor": 1, "weight_decay_rate": 0.01, "eps": 1e-2}
AS_TIMM = {**AS_GIVEN, "scale_parameter": False, "d": 1e30, "beta1": 0.9, "lr_outside": True, "weight_decay": 0.3}
OF_TIMM = {"eps": 1e-2, "weight_decay": 0.3, "momentum_dtype": "float32", "min_dim_size_to_factor": 1}


def transformers(**arguments: object) -> Torch:
    return Torch("transformers.optimization", "Adafactor", eps=(1e-2, 1e-3), weight_decay=0.3, **arguments)


def of_optax(lr: float, **arguments: object) -> Optax:
    return Optax(lambda optax: optax.adafactor(lr, **OF_OPTAX | arguments))


def of_timm(**arguments: object) -> Torch:
    return Torch("timm.adafactor_bv", "AdafactorBigVision", **OF_TIMM | arguments)


ROWS = {
    "torch": Golden(
        {**SHARED, "eps": (1e-4, 0.1)},
        Torch("torch.optim", "Adafactor", eps=(1e-4, 0.1), **SHARED),
        SHAPES,
        ulp=64,
    ),
    "torch, its ε": Golden(
        {"weight_decay": 0.1, "eps": (2.0**-52, 1e-3)},
        Torch("torch.optim", "Adafactor", weight_decay=0.1),
        SHAPES,
        ("float64",),
        ulp=64,
    ),
    "keras": Golden(  # as optax, it works out the new gradient's share in float32
        {"lr": 2**-6, "eps": (1e-30, 1e-3)},
        Keras("Adafactor", learning_rate=2**-6),
        SHAPES,
        ("float32",),
        ulp=64,
    ),
    "keras, decayed": Golden(
        {"lr": 2**-6, **ADDED, "weight_decay": 0.25, "decay": "decoupled"},
        Keras("Adafactor", learning_rate=2**-6, weight_decay=0.25, epsilon_1=1e-2),
        SHAPES,
        ("float32",),
        ulp=64,
    ),
    "optax": Golden({"lr": 0.5, **AS_OPTAX}, of_optax(0.5), TO_THE_LONGEST, ("float32",), ulp=64),
    "optax, momentum": Golden(
        {"lr": 0.02, **AS_OPTAX, "scale_parameter": False, "d": 1e30, "beta1": 0.8},
        of_optax(0.02, multiply_by_parameter_scale=False, clipping_threshold=None, momentum=0.8),
        TO_THE_LONGEST,
        ("float32",),
        ulp=64,
    ),
    "optax, unfactored": Golden(
        {"lr": 0.5, **AS_OPTAX, "unfactored": True}, of_optax(0.5, factored=False), SHAPES, ("float32",), ulp=64
    ),
    "transformers": Golden(
        {"lr": 0.01, **ADDED, "weight_decay": 0.3, "scaled_decay": True}, transformers(), SHAPES, ulp=64
    ),
    "transformers, given": Golden(
        {"lr": 0.5, **AS_GIVEN, "weight_decay": 0.3, "scaled_decay": True, "beta1": 0.9, "beta2_decay": -0.6},
        transformers(lr=0.5, relative_step=False, beta1=0.9, decay_rate=-0.6),
        SHAPES,
        ulp=64,
    ),
    "transformers, unscaled": Golden(
        {"lr": 0.02, **AS_GIVEN, "weight_decay": 0.3, "scale_parameter": False, "d": 0.5},
        transformers(lr=0.02, relative_step=False, scale_parameter=False, clip_threshold=0.5),
        SHAPES,
        ulp=64,
    ),
    "timm": Golden(
        {"lr": falling(0.02), **AS_TIMM},
        Scheduled(of_timm(lr=0.02), falling(0.02)),
        TO_THE_LONGEST,
        ("float32",),
        ulp=64,
    ),
    "timm, capped": Golden(
        {"lr": 0.02, **AS_TIMM, "beta1": 0.0, "beta2_cap": 0.6, "unscaled_decay": True, "weight_decay": 0.01},
        of_timm(lr=0.02, momentum=None, beta2_cap=0.6, unscaled_wd=True, weight_decay=0.01),
        TO_THE_LONGEST,
        ulp=64,
    ),
    "timm, small": Golden(
        {"lr": 0.02, **AS_TIMM, "unfactored": True},
        of_timm(lr=0.02, min_dim_size_to_factor=64),
        SHAPES,
        ("float32",),
        ulp=64,
    ),
}
