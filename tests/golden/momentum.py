"""Beside torch's descent, which has the learning rate in the step instead of the velocity."""

from written_peers import ChainerNesterov

from golden import Golden
from golden.peers import Torch, Written

SHARED = {"lr": 2**-6, "weight_decay": 0.03}

ROWS = {
    name: Golden(
        {**SHARED, "beta": 0.8, "nesterov": nesterov},
        Torch("torch.optim", "SGD", momentum=0.8, nesterov=nesterov, **SHARED),
    )
    for name, nesterov in (("plain", False), ("nesterov", True))
} | {
    "chainer": Golden(
        {**SHARED, "beta": 0.8, "nesterov": True, "twice_ahead": True},
        Written(ChainerNesterov, momentum=0.8, **SHARED),
    ),
}
