"""Beside torch's, timm's, bitsandbytes' and optax', which corrects its moments in the weights' type."""

from golden import Golden
from golden.peers import Optax, Torch

GIVEN = {"lr": 0.01, "weight_decay": 0.3}

ROWS = {
    "plain": Golden(GIVEN, Torch("torch.optim", "AdamW", **GIVEN)),
    "amsgrad": Golden({**GIVEN, "amsgrad": True}, Torch("torch.optim", "AdamW", amsgrad=True, **GIVEN)),
    "corrected_max": Golden(
        {**GIVEN, "amsgrad": True, "corrected_max": True},
        Optax(lambda o: o.chain(o.scale_by_amsgrad(), o.add_decayed_weights(0.3), o.scale(-0.01))),
        ulp=24,
    ),
    "timm": Golden(GIVEN, Torch("timm.adamw", "AdamWLegacy", **GIVEN)),
    "optax": Golden(GIVEN, Optax(lambda optax: optax.adamw(0.01, weight_decay=0.3)), ulp=24),
    "bitsandbytes": Golden(GIVEN, Torch("bitsandbytes.optim", "AdamW", **GIVEN), dtypes=("float32",)),
}
