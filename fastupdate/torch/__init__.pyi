"""Written by scripts/stub.py from the rules: what each optimizer class for torch takes."""

from typing import Any, Unpack

from torch import Tensor

from fastupdate.step.options import Options
from fastupdate.torch.backward import Arrivals as Arrivals
from fastupdate.torch.backward import in_backward as in_backward
from fastupdate.torch.optimizer import Optimizer as Optimizer

_Number = float | Tensor  # of one element

class Adafactor(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.01,
        beta2_decay: _Number = -0.8,
        eps1: _Number = 1.1920928955078125e-07,
        eps2: _Number = 0.001,
        d: _Number = 1.0,
        weight_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Adam(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class AdamW(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.01,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Lamb(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-06,
        weight_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Momentum(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.01,
        beta: _Number = 0.9,
        weight_decay: _Number = 0.0,
        nesterov: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Muon(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        weight_decay: _Number = 0.1,
        momentum: _Number = 0.95,
        nesterov: bool = False,
        match_rms_adamw: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Prodigy(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 1.0,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        d0: _Number = 1e-06,
        d_coef: _Number = 1.0,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class RMSprop(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.01,
        alpha: _Number = 0.99,
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        momentum: _Number = 0.0,
        centered: bool = False,
        eps_inside: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class SGD(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        momentum: _Number = 0.0,
        dampening: _Number = 0.0,
        weight_decay: _Number = 0.0,
        nesterov: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...
