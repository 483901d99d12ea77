"""Written by scripts/stub.py from the rules: what each optimizer class for torch takes."""

from typing import Any, Unpack

from torch import Tensor

from fastupdate.step.options import Options
from fastupdate.torch.backward import Arrivals as Arrivals
from fastupdate.torch.backward import in_backward as in_backward
from fastupdate.torch.optimizer import Optimizer as Optimizer
from fastupdate.torch.partition import Partition as Partition
from fastupdate.torch.pieces import Pieces as Pieces

_Number = float | Tensor  # of one element

class AdaBelief(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-16,
        eps_root: _Number = 1e-16,
        weight_decay: _Number = 0.0,
        rectify: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Adadelta(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 1.0,
        rho: _Number = 0.9,
        eps: _Number = 1e-06,
        weight_decay: _Number = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Adafactor(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.01,
        beta2_decay: _Number = -0.8,
        eps: tuple[_Number | None, _Number] = (None, 0.001),
        d: _Number = 1.0,
        weight_decay: _Number = 0.0,
        *,
        beta1: _Number = 0.0,
        relative_step: _Number = 1.0,
        scale_parameter: _Number = 1.0,
        scaled_decay: _Number = 0.0,
        unscaled_decay: _Number = 0.0,
        lr_outside: _Number = 0.0,
        beta2_cap: _Number = 1.0,
        eps_added: _Number = 0.0,
        unfactored: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Adagrad(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.01,
        lr_decay: _Number = 0.0,
        weight_decay: _Number = 0.0,
        initial_accumulator_value: _Number = 0.0,
        eps: _Number = 1e-10,
        foreach: bool | None = None,
        *,
        eps_inside: bool = False,
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
        corrected_max: bool = False,
        eps_hat: bool = False,
        uncorrected: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Adamax(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.002,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        foreach: bool | None = None,
        *,
        eps_outside: bool = False,
        uncorrected: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class AdamMini(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        whole: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class AdamP(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        delta: _Number = 0.1,
        wd_ratio: _Number = 0.1,
        nesterov: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class AdaMuon(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.02,
        betas: tuple[_Number, _Number] = (0.9, 0.95),
        eps: _Number = 1e-10,
        weight_decay: _Number = 0.0,
        ns_coefficients: tuple[_Number, _Number, _Number] = (3.4445, -4.775, 2.0315),
        ns_steps: _Number = 5,
        quintic: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        others: Any = None,
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
        corrected_max: bool = False,
        eps_hat: bool = False,
        uncorrected: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class AdamWScheduleFree(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.0025,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        warmup_steps: _Number = 0.0,
        r: _Number = 0.0,
        weight_lr_power: _Number = 2.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Adan(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.98, 0.92),
        beta3: _Number = 0.99,
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        eps_root: _Number = 0.0,
        no_prox: bool = False,
        damped_change: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class AdEMAMix(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        beta3: _Number = 0.9999,
        alpha: _Number = 5.0,
        t_alpha: _Number = 0.0,
        t_beta3: _Number = 0.0,
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class ADOPT(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.9999),
        eps: _Number = 1e-06,
        weight_decay: _Number = 0.0,
        clip_exp: _Number = 0.25,
        clip_shift: _Number = 0.0,
        without_clip: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class AggMo(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, ...] = (0.0, 0.9, 0.99, 0.0, 0.0),
        weight_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class ASGD(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.01,
        lambd: _Number = 0.0001,
        alpha: _Number = 0.75,
        t0: _Number = 1000000.0,
        weight_decay: _Number = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class CAME(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.0002,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        beta3: _Number = 0.9999,
        eps: tuple[_Number, _Number] = (1e-30, 1e-16),
        d: _Number = 1.0,
        weight_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class DAdaptAdam(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 1.0,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        d0: _Number = 1e-06,
        growth_rate: _Number = ...,
        use_bias_correction: bool = False,
        decouple: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        fsdp_in_use: bool = False,
        layer_scale: float = 1.0,
        log_every: int = 0,
        **options: Unpack[Options],
    ) -> None: ...

class DAdaptSGD(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 1.0,
        momentum: _Number = 0.9,
        weight_decay: _Number = 0.0,
        d0: _Number = 1e-06,
        growth_rate: _Number = ...,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        fsdp_in_use: bool = False,
        log_every: int = 0,
        **options: Unpack[Options],
    ) -> None: ...

class DoG(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 1.0,
        weight_decay: _Number = 0.0,
        relative: _Number = 1e-06,
        distance: _Number = 0.0,
        first_rate: _Number = 0.0,
        eps: _Number = 1e-08,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class DoWG(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 1.0,
        weight_decay: _Number = 0.0,
        distance_squared: _Number = 0.0001,
        eps: _Number = 0.0001,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class FTRL(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        beta: _Number = 1.0,
        l1_strength: _Number = 0.0,
        l2_strength: _Number = 0.0,
        initial_accumulator_value: _Number = 0.0,
        weight_decay: _Number = 0.0,
        learning_rate_power: _Number = 0.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Grams(Optimizer):
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

class Lamb(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-06,
        weight_decay: _Number = 0.0,
        trust_min: _Number = 0.0,
        trust_max: _Number = ...,
        trust_clip: bool = False,
        adapt_decayed: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class LaProp(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.0004,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-15,
        weight_decay: _Number = 0.0,
        lr_in_mean: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Lars(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 1.0,
        momentum: _Number = 0.9,
        weight_decay: _Number = 0.0,
        trust: _Number = 0.001,
        eps: _Number = 1e-08,
        nesterov: bool = False,
        trust_clip: bool = False,
        always_adapt: bool = False,
        lr_in_buffer: bool = False,
        joint_norm: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Lion(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.0001,
        betas: tuple[_Number, _Number] = (0.9, 0.99),
        weight_decay: _Number = 0.0,
        sign_of_zero: _Number = 0.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class MADGRAD(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.01,
        momentum: _Number = 0.9,
        eps: _Number = 1e-06,
        weight_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Mars(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.003,
        betas: tuple[_Number, _Number] = (0.9, 0.99),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        gamma: _Number = 0.025,
        optimize_1d: bool = False,
        correct_first: bool = False,
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
        twice_ahead: bool = False,
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
        nesterov: bool = True,
        ns_coefficients: tuple[_Number, _Number, _Number] = (3.4445, -4.775, 2.0315),
        eps: _Number = 1e-07,
        ns_steps: _Number = 5,
        adjust_lr_fn: str | None = None,
        *,
        match_rms_adamw: bool = False,
        rows_are_inputs: bool = False,
        rms_rate: _Number = 0.2,
        eps_added: _Number = 0.0,
        corrected: bool = False,
        quintic: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        others: Any = None,
        **options: Unpack[Options],
    ) -> None: ...

class NAdam(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.002,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        momentum_decay: _Number = 0.004,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class NAdamW(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.01,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class NorMuon(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.02,
        momentum: _Number = 0.95,
        beta2: _Number = 0.95,
        eps: _Number = 1e-10,
        weight_decay: _Number = 0.0,
        nesterov: bool = False,
        match_rms_adamw: bool = False,
        ns_coefficients: tuple[_Number, _Number, _Number] = (3.4445, -4.775, 2.0315),
        ns_steps: _Number = 5,
        quintic: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        others: Any = None,
        **options: Unpack[Options],
    ) -> None: ...

class NovoGrad(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.95, 0.98),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        amsgrad: bool = False,
        grad_averaging: bool = False,
        divide_mean: bool = False,
        corrected: bool = False,
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
        beta3: _Number = 0.0,
        growth_rate: _Number = ...,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decouple: bool = True,
        fsdp_in_use: bool = False,
        slice_p: int = 1,
        **options: Unpack[Options],
    ) -> None: ...

class QHAdam(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        nus: tuple[_Number, _Number] = (1.0, 1.0),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class QHM(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        momentum: _Number = 0.0,
        nu: _Number = 1.0,
        weight_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class RAdam(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        threshold: _Number = 5.0,
        eps_outside: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class RAdamScheduleFree(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.0025,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        r: _Number = 0.0,
        weight_lr_power: _Number = 2.0,
        sgd_phase: bool = False,
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
        capturable: bool = False,
        foreach: bool | None = None,
        *,
        lr_in_buffer: bool = False,
        eps_inside: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class RowwiseAdagrad(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.01,
        weight_decay: _Number = 0.0,
        eps: _Number = 1e-08,
        initial_accumulator_value: _Number = 0.0,
        lr_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Rprop(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.01,
        etas: tuple[_Number, _Number] = (0.5, 1.2),
        step_sizes: tuple[_Number, _Number] = (1e-06, 50.0),
        *,
        weight_decay: _Number = 0.0,
        one_late: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Scion(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        momentum: _Number = 0.9,
        scale: _Number = 1.0,
        weight_decay: _Number = 0.0,
        max_scale: bool = False,
        ns_steps: _Number = 5,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        others: Any = None,
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
        dampen_first: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class SGDP(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.1,
        momentum: _Number = 0.9,
        dampening: _Number = 0.0,
        weight_decay: _Number = 0.0,
        eps: _Number = 1e-08,
        delta: _Number = 0.1,
        wd_ratio: _Number = 0.1,
        nesterov: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class SGDScheduleFree(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 1.0,
        momentum: _Number = 0.9,
        weight_decay: _Number = 0.0,
        warmup_steps: _Number = 0.0,
        r: _Number = 0.0,
        weight_lr_power: _Number = 2.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class SGDW(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        momentum: _Number = 0.0,
        dampening: _Number = 0.0,
        weight_decay: _Number = 0.0,
        nesterov: bool = False,
        dampen_first: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class SignSGD(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        momentum: _Number = 0.0,
        weight_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class SimplifiedAdEMAMix(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.0001,
        betas: tuple[_Number, _Number] = (0.99, 0.95),
        alpha: _Number = 0.0,
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class SM3(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.1,
        momentum: _Number = 0.9,
        beta2: _Number = 1.0,
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class SOAP(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.003,
        betas: tuple[_Number, _Number] = (0.95, 0.95),
        shampoo_beta: _Number = 0.95,
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.01,
        precondition_frequency: _Number = 10.0,
        max_precondition_dim: _Number = 10000.0,
        uncorrected: bool = False,
        normalize: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        others: Any = None,
        **options: Unpack[Options],
    ) -> None: ...

class Sophia(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        beta1: _Number = 0.965,
        gamma: _Number = 0.01,
        rho: _Number = 1.0,
        eps: _Number = 1e-08,
        weight_decay: _Number = 0.0001,
        bias_correction: bool = False,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class SparseAdam(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 1e-08,
        *,
        weight_decay: _Number = 0.0,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class StableAdamW(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.99),
        eps: _Number = 1e-06,
        weight_decay: _Number = 0.01,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Tiger(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        beta: _Number = 0.965,
        weight_decay: _Number = 0.01,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...

class Yogi(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Number = 0.001,
        betas: tuple[_Number, _Number] = (0.9, 0.999),
        eps: _Number = 0.001,
        initial_accumulator_value: _Number = 1e-06,
        weight_decay: _Number = 0.0,
        *,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None: ...
