"""Beside pytorch_optimizer's AdaMuon, in the weights' type. Products of matrices are summed in another order."""

from golden import Golden
from golden.muon import SHAPES, ULP
from golden.peers import Orthogonal

SHARED = {"lr": 0.02, "betas": (0.8, 0.9), "weight_decay": 0.3, "eps": 1e-6}

OF_MUON = {"use_muon": True}

ROWS = {
    "plain": Golden(SHARED, Orthogonal("AdaMuon", group=OF_MUON, **SHARED), SHAPES, ulp=ULP),
    "told": Golden(
        {**SHARED, "ns_coefficients": (3.0, -3.2, 1.2), "ns_steps": 4},
        Orthogonal("AdaMuon", group=OF_MUON, ns_coeffs=(3.0, -3.2, 1.2), ns_steps=4, **SHARED),
        SHAPES,
        ulp=ULP,
    ),
    "quintic": Golden(
        {**SHARED, "quintic": True},
        Orthogonal("AdaMuon", group=OF_MUON, ns_coeffs="quintic", **SHARED),
        SHAPES,
        ulp=ULP,
    ),
}
