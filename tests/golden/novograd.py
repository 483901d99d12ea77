"""Beside timm's NvNovoGrad, optax' NovoGrad and apex' formulas."""

from written_peers import CudaNovoGrad

from golden import Golden
from golden.peers import Optax, Torch, Written

ARGUMENTS = {"lr": 0.01, "betas": (0.9, 0.8), "eps": 0.1, "weight_decay": 0.03}

ROWS = {
    "timm": Golden(ARGUMENTS, Torch("timm.nvnovograd", "NvNovoGrad", **ARGUMENTS)),
    "defaults": Golden({"weight_decay": 0.3}, Torch("timm.nvnovograd", "NvNovoGrad", weight_decay=0.3)),
    "amsgrad": Golden(
        ARGUMENTS | {"amsgrad": True},
        Torch("timm.nvnovograd", "NvNovoGrad", amsgrad=True, **ARGUMENTS),
    ),
    "averaging": Golden(
        ARGUMENTS | {"grad_averaging": True},
        Torch("timm.nvnovograd", "NvNovoGrad", grad_averaging=True, **ARGUMENTS),
    ),
    "apex": Golden(
        ARGUMENTS | {"grad_averaging": True, "divide_mean": True, "corrected": True},
        Written(CudaNovoGrad, **ARGUMENTS),
    ),
    "apex, inside": Golden(
        ARGUMENTS | {"grad_averaging": True, "corrected": True},
        Written(CudaNovoGrad, reg_inside_moment=True, **ARGUMENTS),
    ),
    "optax": Golden(
        {"lr": 0.01, "betas": (0.9, 0.25), "eps": 1e-6, "weight_decay": 0.03},
        Optax(lambda optax: optax.novograd(0.01, weight_decay=0.03)),
    ),
}
