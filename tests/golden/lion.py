"""Beside lion_pytorch, optax and bitsandbytes."""

from written_peers import DeepSpeedLion

from golden import Golden
from golden.peers import Optax, Torch, Written

GIVEN = {"lr": 0.01, "betas": (0.85, 0.97), "weight_decay": 0.3}

ROWS = {
    "deepspeed": Golden({**GIVEN, "sign_of_zero": 1.0}, Written(DeepSpeedLion, **GIVEN)),
    "plain": Golden(GIVEN, Torch("lion_pytorch", "Lion", **GIVEN)),
    "optax": Golden(GIVEN, Optax(lambda o: o.lion(0.01, 0.85, 0.97, weight_decay=0.3))),
    "bitsandbytes": Golden(GIVEN, Torch("bitsandbytes.optim", "Lion", **GIVEN), dtypes=("float32",)),
}
