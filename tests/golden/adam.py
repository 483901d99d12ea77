"""Beside torch's, optax' and bitsandbytes' Adam."""

from golden import Golden
from golden.peers import Keras, Mlx, Optax, Torch

GIVEN = {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.03}

ROWS = {
    "plain": Golden(GIVEN, Torch("torch.optim", "Adam", **GIVEN)),
    "amsgrad": Golden({**GIVEN, "amsgrad": True}, Torch("torch.optim", "Adam", amsgrad=True, **GIVEN)),
    "corrected_max": Golden(
        {**GIVEN, "amsgrad": True, "corrected_max": True},
        Optax(lambda o: o.chain(o.add_decayed_weights(0.03), o.amsgrad(0.01, b1=0.85, b2=0.97, eps=1e-6))),
    ),
    "keras": Golden(
        {"lr": 2**-7, "betas": (0.875, 0.96875), "eps": 2**-10, "weight_decay": 0.0, "amsgrad": True, "eps_hat": True},
        Keras("Adam", learning_rate=2**-7, beta_1=0.875, beta_2=0.96875, epsilon=2**-10, amsgrad=True),
    ),
    "mlx": Golden(
        {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-3, "uncorrected": True},
        Mlx("Adam", learning_rate=0.01, betas=[0.85, 0.97], eps=1e-3),
        dtypes=("float32",),
    ),
    "optax": Golden(
        GIVEN,
        Optax(lambda optax: optax.chain(optax.add_decayed_weights(0.03), optax.adam(0.01, b1=0.85, b2=0.97, eps=1e-6))),
    ),
    "bitsandbytes": Golden(  # whose Adam decays as AdamW does
        {**GIVEN, "decay": "decoupled"}, Torch("bitsandbytes.optim", "Adam", **GIVEN), dtypes=("float32",)
    ),
}
