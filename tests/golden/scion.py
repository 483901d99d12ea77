"""Beside pytorch_optimizer's SCION, in the weights' type. Products of matrices are summed in another order."""

from golden import Golden
from golden.muon import SHAPES, ULP
from golden.peers import Orthogonal

ROWS = {
    "plain": Golden(
        {"lr": 0.02, "momentum": 0.8, "scale": 3.0, "weight_decay": 0.3},
        Orthogonal("SCION", lr=0.02, momentum=0.2, scale=3.0, weight_decay=0.3),
        SHAPES,
        ulp=ULP,
    ),
    "constrained": Golden(
        {"lr": 0.02, "scale": 3.0, "weight_decay": 1.0, "max_scale": True},
        Orthogonal("SCION", lr=0.02, scale=3.0, constraint=True, norm_type=2, norm_kwargs={"max_scale": True}),
        SHAPES,
        ulp=ULP,
    ),
    "told": Golden(
        {"lr": 0.02, "weight_decay": 0.3, "ns_steps": 4},
        Orthogonal("SCION", lr=0.02, scale=1.0, weight_decay=0.3, norm_type=2, norm_kwargs={"num_steps": 4}),
        SHAPES,
        ulp=ULP,
    ),
}
