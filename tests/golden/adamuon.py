"""Beside pytorch_optimizer's AdaMuon, in the weights' type. Products of matrices are summed in another order."""

from golden import Golden
from golden.muon import SHAPES, ULP
from golden.peers import Orthogonal

SHARED = {"lr": 0.02, "betas": (0.8, 0.9), "weight_decay": 0.3, "eps": 1e-6}

ROWS = {"plain": Golden(SHARED, Orthogonal("AdaMuon", group={"use_muon": True}, **SHARED), SHAPES, ulp=ULP)}
