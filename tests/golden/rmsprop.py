"""Beside torch's and bitsandbytes' RMSprop, and optax', which has ε within the root."""

from golden import Golden
from golden.peers import Optax, Torch, falling

PLAIN = {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.03}
BOTH = {**PLAIN, "momentum": 0.7, "centered": True}


ROWS = {
    "plain": Golden(PLAIN, Torch("torch.optim", "RMSprop", **PLAIN)),
    "both": Golden(BOTH, Torch("torch.optim", "RMSprop", **BOTH)),
    "optax, falling": Golden(  # float32 rounds the rates of a schedule
        {**PLAIN, "lr": falling(0.01), "momentum": 0.7, "lr_in_buffer": True},
        Optax(
            lambda o: o.chain(
                o.add_decayed_weights(0.03),
                o.rmsprop(falling(0.01), decay=0.9, eps=1e-3, momentum=0.7, eps_in_sqrt=False),
            )
        ),
    ),
    "optax": Golden(
        {**PLAIN, "eps_inside": True},
        Optax(lambda optax: optax.chain(optax.add_decayed_weights(0.03), optax.rmsprop(0.01, decay=0.9, eps=1e-3))),
    ),
    "bitsandbytes": Golden(PLAIN, Torch("bitsandbytes.optim", "RMSprop", **PLAIN), dtypes=("float32",)),
}
