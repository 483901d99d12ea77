"""Beside pytorch_optimizer's NorMuon, in the weights' type. Products of matrices are summed in another order."""

from golden import Golden
from golden.muon import SHAPES, ULP
from golden.peers import Orthogonal

SHARED = {"lr": 0.02, "momentum": 0.9, "beta2": 0.8, "weight_decay": 0.3}
PLAIN = {"use_muon": True, "nesterov": False}

ROWS = {
    "plain": Golden(  # in float64 it shows that ε stands beside another factor
        SHARED, Orthogonal("NorMuon", group=PLAIN, **SHARED), SHAPES, ("float32",), ULP
    ),
    "without ε": Golden(
        SHARED | {"eps": 0.0},
        Orthogonal("NorMuon", group=PLAIN, eps=0.0, **SHARED),
        SHAPES,
        ulp=ULP,
    ),
    "told": Golden(
        SHARED | {"eps": 0.0, "ns_coefficients": (3.0, -3.2, 1.2), "ns_steps": 4},
        Orthogonal("NorMuon", group=PLAIN, eps=0.0, ns_coeffs=(3.0, -3.2, 1.2), ns_steps=4, **SHARED),
        SHAPES,
        ulp=ULP,
    ),
    "quintic": Golden(
        SHARED | {"eps": 0.0, "quintic": True},
        Orthogonal("NorMuon", group=PLAIN, eps=0.0, ns_coeffs="quintic", **SHARED),
        SHAPES,
        ulp=ULP,
    ),
    "nesterov, scaled": Golden(
        SHARED | {"nesterov": True, "match_rms_adamw": True, "eps": 1e-3},
        Orthogonal("NorMuon", group={"use_muon": True}, update_scale="match_rms", eps=1e-3, **SHARED),
        SHAPES,
        ulp=ULP,
    ),
}
