"""Beside torch's, timm's, bitsandbytes' and optax', which corrects its moments in the weights' type."""

from golden import Golden
from golden.peers import Keras, Mlx, Optax, Torch

GIVEN = {"lr": 0.01, "weight_decay": 0.3}

ROWS = {
    "plain": Golden(GIVEN, Torch("torch.optim", "AdamW", **GIVEN)),
    "amsgrad": Golden({**GIVEN, "amsgrad": True}, Torch("torch.optim", "AdamW", amsgrad=True, **GIVEN)),
    "corrected_max": Golden(
        {**GIVEN, "amsgrad": True, "corrected_max": True},
        Optax(lambda o: o.chain(o.scale_by_amsgrad(), o.add_decayed_weights(0.3), o.scale(-0.01))),
        ulp=24,
    ),
    "keras": Golden(
        {"lr": 2**-7, "betas": (0.875, 0.96875), "eps": 2**-10, "weight_decay": 2**-4, "eps_hat": True},
        Keras("AdamW", learning_rate=2**-7, beta_1=0.875, beta_2=0.96875, epsilon=2**-10, weight_decay=2**-4),
    ),
    "mlx": Golden(
        {**GIVEN, "eps": 1e-3, "uncorrected": True},
        Mlx("AdamW", learning_rate=0.01, eps=1e-3, weight_decay=0.3),
        dtypes=("float32",),
    ),
    "timm": Golden(GIVEN, Torch("timm.adamw", "AdamWLegacy", **GIVEN)),
    "optax": Golden(GIVEN, Optax(lambda optax: optax.adamw(0.01, weight_decay=0.3)), ulp=24),
    "bitsandbytes": Golden(GIVEN, Torch("bitsandbytes.optim", "AdamW", **GIVEN), dtypes=("float32",)),
}
