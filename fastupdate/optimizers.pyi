"""Written by scripts/stub.py from the rules: what each optimizer class takes."""

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any, TypeVar, Unpack

from fastupdate.optimizer import Optimizer
from fastupdate.rules.rule import Rule
from fastupdate.step.options import Options

_Scheduled = float | Callable[[int], float]  # a number, or a function of the steps taken
T = TypeVar("T")

CLASSES: Mapping[str, type[Optimizer]]
OTHERS: Parameter

def arguments(rule: Rule) -> dict[str, Any]: ...
def check_arguments(rule: Rule, values: Mapping[str, Any]) -> None: ...
def make(rule: Rule, module: str) -> type[Optimizer]: ...
def dividing(cls: type[T], divided: Callable[..., Any]) -> type[T]: ...
def class_of(
    rule: Rule,
    base: type[T],
    module: str,
    doc: str,
    construct: Callable[..., None],
    *further: Parameter,
    defaults: Mapping[str, Any] = ...,
    positional: Sequence[str] | None = ...,
) -> type[T]: ...
def page(rule: Rule, params: str = ...) -> str: ...
def rule(formula: type) -> type[Optimizer]: ...

class AdaBelief(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-16,
        eps_root: _Scheduled = 1e-16,
        weight_decay: _Scheduled = 0.0,
        rectify: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Adadelta(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 1.0,
        rho: _Scheduled = 0.9,
        eps: _Scheduled = 1e-06,
        weight_decay: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class Adafactor(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.01,
        beta2_decay: _Scheduled = -0.8,
        eps: tuple[_Scheduled, _Scheduled] = (1.1920928955078125e-07, 0.001),
        d: _Scheduled = 1.0,
        weight_decay: _Scheduled = 0.0,
        beta1: _Scheduled = 0.0,
        relative_step: _Scheduled = 1.0,
        scale_parameter: _Scheduled = 1.0,
        scaled_decay: _Scheduled = 0.0,
        unscaled_decay: _Scheduled = 0.0,
        lr_outside: _Scheduled = 0.0,
        beta2_cap: _Scheduled = 1.0,
        eps_added: _Scheduled = 0.0,
        unfactored: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Adagrad(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.01,
        lr_decay: _Scheduled = 0.0,
        weight_decay: _Scheduled = 0.0,
        initial_accumulator_value: _Scheduled = 0.0,
        eps: _Scheduled = 1e-10,
        eps_inside: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Adam(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        amsgrad: bool = False,
        corrected_max: bool = False,
        eps_hat: bool = False,
        uncorrected: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Adamax(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.002,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        eps_outside: bool = False,
        uncorrected: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class AdamMini(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        whole: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class AdamP(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        delta: _Scheduled = 0.1,
        wd_ratio: _Scheduled = 0.1,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class AdaMuon(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.02,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.95),
        eps: _Scheduled = 1e-10,
        weight_decay: _Scheduled = 0.0,
        ns_coefficients: tuple[_Scheduled, _Scheduled, _Scheduled] = (3.4445, -4.775, 2.0315),
        ns_steps: _Scheduled = 5,
        quintic: bool = False,
        *,
        others: Any = None,
        **options: Unpack[Options],
    ) -> None: ...

class AdamW(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.01,
        amsgrad: bool = False,
        corrected_max: bool = False,
        eps_hat: bool = False,
        uncorrected: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class AdamWScheduleFree(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.0025,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        warmup_steps: _Scheduled = 0.0,
        r: _Scheduled = 0.0,
        weight_lr_power: _Scheduled = 2.0,
        **options: Unpack[Options],
    ) -> None: ...

class Adan(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.98, 0.92),
        beta3: _Scheduled = 0.99,
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        eps_root: _Scheduled = 0.0,
        no_prox: bool = False,
        damped_change: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class AdEMAMix(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        beta3: _Scheduled = 0.9999,
        alpha: _Scheduled = 5.0,
        t_alpha: _Scheduled = 0.0,
        t_beta3: _Scheduled = 0.0,
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class ADOPT(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.9999),
        eps: _Scheduled = 1e-06,
        weight_decay: _Scheduled = 0.0,
        clip_exp: _Scheduled = 0.25,
        clip_shift: _Scheduled = 0.0,
        without_clip: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class AggMo(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, ...] = (0.0, 0.9, 0.99, 0.0, 0.0),
        weight_decay: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class ASGD(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.01,
        lambd: _Scheduled = 0.0001,
        alpha: _Scheduled = 0.75,
        t0: _Scheduled = 1000000.0,
        weight_decay: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class CAME(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.0002,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        beta3: _Scheduled = 0.9999,
        eps: tuple[_Scheduled, _Scheduled] = (1e-30, 1e-16),
        d: _Scheduled = 1.0,
        weight_decay: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class DAdaptAdam(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 1.0,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        d0: _Scheduled = 1e-06,
        growth_rate: _Scheduled = ...,
        use_bias_correction: bool = False,
        decouple: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class DAdaptSGD(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 1.0,
        momentum: _Scheduled = 0.9,
        weight_decay: _Scheduled = 0.0,
        d0: _Scheduled = 1e-06,
        growth_rate: _Scheduled = ...,
        **options: Unpack[Options],
    ) -> None: ...

class DoG(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 1.0,
        weight_decay: _Scheduled = 0.0,
        relative: _Scheduled = 1e-06,
        distance: _Scheduled = 0.0,
        first_rate: _Scheduled = 0.0,
        eps: _Scheduled = 1e-08,
        **options: Unpack[Options],
    ) -> None: ...

class DoWG(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 1.0,
        weight_decay: _Scheduled = 0.0,
        distance_squared: _Scheduled = 0.0001,
        eps: _Scheduled = 0.0001,
        **options: Unpack[Options],
    ) -> None: ...

class FTRL(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        beta: _Scheduled = 1.0,
        l1_strength: _Scheduled = 0.0,
        l2_strength: _Scheduled = 0.0,
        initial_accumulator_value: _Scheduled = 0.0,
        weight_decay: _Scheduled = 0.0,
        learning_rate_power: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class Grams(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-06,
        weight_decay: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class Lamb(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-06,
        weight_decay: _Scheduled = 0.0,
        trust_min: _Scheduled = 0.0,
        trust_max: _Scheduled = ...,
        trust_clip: bool = False,
        adapt_decayed: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class LaProp(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.0004,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-15,
        weight_decay: _Scheduled = 0.0,
        lr_in_mean: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Lars(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 1.0,
        momentum: _Scheduled = 0.9,
        weight_decay: _Scheduled = 0.0,
        trust: _Scheduled = 0.001,
        eps: _Scheduled = 1e-08,
        nesterov: bool = False,
        trust_clip: bool = False,
        always_adapt: bool = False,
        lr_in_buffer: bool = False,
        joint_norm: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Lion(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.0001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.99),
        weight_decay: _Scheduled = 0.0,
        sign_of_zero: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class MADGRAD(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.01,
        momentum: _Scheduled = 0.9,
        eps: _Scheduled = 1e-06,
        weight_decay: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class Mars(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.003,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.99),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        gamma: _Scheduled = 0.025,
        optimize_1d: bool = False,
        correct_first: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Momentum(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.01,
        beta: _Scheduled = 0.9,
        weight_decay: _Scheduled = 0.0,
        nesterov: bool = False,
        twice_ahead: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Muon(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        weight_decay: _Scheduled = 0.1,
        momentum: _Scheduled = 0.95,
        nesterov: bool = False,
        ns_coefficients: tuple[_Scheduled, _Scheduled, _Scheduled] = (3.4445, -4.775, 2.0315),
        eps: _Scheduled = 1e-07,
        ns_steps: _Scheduled = 5,
        match_rms_adamw: bool = False,
        rows_are_inputs: bool = False,
        rms_rate: _Scheduled = 0.2,
        eps_added: _Scheduled = 0.0,
        corrected: bool = False,
        quintic: bool = False,
        *,
        others: Any = None,
        **options: Unpack[Options],
    ) -> None: ...

class NAdam(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.002,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        momentum_decay: _Scheduled = 0.004,
        **options: Unpack[Options],
    ) -> None: ...

class NAdamW(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.01,
        **options: Unpack[Options],
    ) -> None: ...

class NorMuon(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.02,
        momentum: _Scheduled = 0.95,
        beta2: _Scheduled = 0.95,
        eps: _Scheduled = 1e-10,
        weight_decay: _Scheduled = 0.0,
        nesterov: bool = False,
        match_rms_adamw: bool = False,
        ns_coefficients: tuple[_Scheduled, _Scheduled, _Scheduled] = (3.4445, -4.775, 2.0315),
        ns_steps: _Scheduled = 5,
        quintic: bool = False,
        *,
        others: Any = None,
        **options: Unpack[Options],
    ) -> None: ...

class NovoGrad(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.95, 0.98),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        amsgrad: bool = False,
        grad_averaging: bool = False,
        divide_mean: bool = False,
        corrected: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Prodigy(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 1.0,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        d0: _Scheduled = 1e-06,
        d_coef: _Scheduled = 1.0,
        beta3: _Scheduled = 0.0,
        growth_rate: _Scheduled = ...,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class QHAdam(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        nus: tuple[_Scheduled, _Scheduled] = (1.0, 1.0),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class QHM(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        momentum: _Scheduled = 0.0,
        nu: _Scheduled = 1.0,
        weight_decay: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class RAdam(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        threshold: _Scheduled = 5.0,
        eps_outside: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class RAdamScheduleFree(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.0025,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        r: _Scheduled = 0.0,
        weight_lr_power: _Scheduled = 2.0,
        sgd_phase: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class RMSprop(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.01,
        alpha: _Scheduled = 0.99,
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        momentum: _Scheduled = 0.0,
        centered: bool = False,
        lr_in_buffer: bool = False,
        eps_inside: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class RowwiseAdagrad(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.01,
        weight_decay: _Scheduled = 0.0,
        eps: _Scheduled = 1e-08,
        initial_accumulator_value: _Scheduled = 0.0,
        lr_decay: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class Rprop(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.01,
        etas: tuple[_Scheduled, _Scheduled] = (0.5, 1.2),
        step_sizes: tuple[_Scheduled, _Scheduled] = (1e-06, 50.0),
        weight_decay: _Scheduled = 0.0,
        one_late: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Scion(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        momentum: _Scheduled = 0.9,
        scale: _Scheduled = 1.0,
        weight_decay: _Scheduled = 0.0,
        max_scale: bool = False,
        ns_steps: _Scheduled = 5,
        *,
        others: Any = None,
        **options: Unpack[Options],
    ) -> None: ...

class SGD(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        momentum: _Scheduled = 0.0,
        dampening: _Scheduled = 0.0,
        weight_decay: _Scheduled = 0.0,
        nesterov: bool = False,
        dampen_first: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class SGDP(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.1,
        momentum: _Scheduled = 0.9,
        dampening: _Scheduled = 0.0,
        weight_decay: _Scheduled = 0.0,
        eps: _Scheduled = 1e-08,
        delta: _Scheduled = 0.1,
        wd_ratio: _Scheduled = 0.1,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class SGDScheduleFree(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 1.0,
        momentum: _Scheduled = 0.9,
        weight_decay: _Scheduled = 0.0,
        warmup_steps: _Scheduled = 0.0,
        r: _Scheduled = 0.0,
        weight_lr_power: _Scheduled = 2.0,
        **options: Unpack[Options],
    ) -> None: ...

class SGDW(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        momentum: _Scheduled = 0.0,
        dampening: _Scheduled = 0.0,
        weight_decay: _Scheduled = 0.0,
        nesterov: bool = False,
        dampen_first: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class SignSGD(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        momentum: _Scheduled = 0.0,
        weight_decay: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class SimplifiedAdEMAMix(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.0001,
        betas: tuple[_Scheduled, _Scheduled] = (0.99, 0.95),
        alpha: _Scheduled = 0.0,
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class SM3(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.1,
        momentum: _Scheduled = 0.9,
        beta2: _Scheduled = 1.0,
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class SOAP(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.003,
        betas: tuple[_Scheduled, _Scheduled] = (0.95, 0.95),
        shampoo_beta: _Scheduled = 0.95,
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.01,
        precondition_frequency: _Scheduled = 10.0,
        max_precondition_dim: _Scheduled = 10000.0,
        uncorrected: bool = False,
        normalize: bool = False,
        *,
        others: Any = None,
        **options: Unpack[Options],
    ) -> None: ...

class Sophia(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        beta1: _Scheduled = 0.965,
        gamma: _Scheduled = 0.01,
        rho: _Scheduled = 1.0,
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0001,
        bias_correction: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class SparseAdam(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 1e-08,
        weight_decay: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class StableAdamW(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.99),
        eps: _Scheduled = 1e-06,
        weight_decay: _Scheduled = 0.01,
        **options: Unpack[Options],
    ) -> None: ...

class Tiger(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        beta: _Scheduled = 0.965,
        weight_decay: _Scheduled = 0.01,
        **options: Unpack[Options],
    ) -> None: ...

class Yogi(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: _Scheduled = 0.001,
        betas: tuple[_Scheduled, _Scheduled] = (0.9, 0.999),
        eps: _Scheduled = 0.001,
        initial_accumulator_value: _Scheduled = 1e-06,
        weight_decay: _Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None: ...
