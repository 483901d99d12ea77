"""Adam."""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

from numpy import maximum, sqrt

from fastupdate.optimizer import Optimizer
from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, Rule
from fastupdate.step.options import Options


class Scalars(NamedTuple):
    lr: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    correction1: float
    correction2: float
    eps: float
    weight_decay: float


def prepare(h: Hyper, t: int) -> Scalars:
    return Scalars(
        lr=h["lr"],
        one_minus_beta1=1 - h["beta1"],
        beta2=h["beta2"],
        one_minus_beta2=1 - h["beta2"],
        correction1=1 / (1 - h["beta1"] ** t),
        correction2=1 / (1 - h["beta2"] ** t),
        eps=h["eps"],
        weight_decay=h["weight_decay"],
    )


def direction(flags: Any, s: Any, g: Any, m: Any, v: Any, v_max: Any) -> tuple[Any, ...]:
    """m̂ / (√v̂ + ε), and the new moments."""
    m = m + s.one_minus_beta1 * (g - m)
    v = s.beta2 * v + s.one_minus_beta2 * (g * g)
    if flags.amsgrad:
        v_max = maximum(v_max, v)
    m_hat = m * s.correction1
    v_hat = (v_max if flags.amsgrad else v) * s.correction2
    return m_hat / (sqrt(v_hat) + s.eps), m, v, v_max


def update(flags: Any, s: Any, g: Any, p: Any, m: Any, v: Any, v_max: Any) -> tuple[Any, ...]:
    g = g + s.weight_decay * p
    step, m, v, v_max = direction(flags, s, g, m, v, v_max)
    return -s.lr * step, m, v, v_max


class Adam(Optimizer):
    r"""Adam, as `torch.optim.Adam`: weight decay is L2 regularisation.

        g ← ∇L + λw
        m ← β₁m + (1 − β₁)g             m̂ = m/(1 − β₁ᵗ)
        v ← β₂v + (1 − β₂)g²            v̂ = v/(1 − β₂ᵗ), of the largest v so far with amsgrad
        w ← w − α·m̂/(√v̂ + ε)

    Source: Kingma & Ba (ICLR 2015), algorithm 1; AMSGrad: Reddi, Kale & Kumar (ICLR 2018).
    """

    rule = Rule(
        name="adam",
        hypers={
            "lr": NON_NEGATIVE,
            "beta1": BELOW_ONE,
            "beta2": BELOW_ONE,
            "eps": NON_NEGATIVE,
            "weight_decay": NON_NEGATIVE,
        },
        flags=("amsgrad",),
        states=("m", "v", "v_max"),
        state_flags={"v_max": "amsgrad"},
        momentum="m",
        prepare=prepare,
        update=update,
    )

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-8,
        weight_decay: Any = 0.0,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hypers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, hypers, {"amsgrad": amsgrad}, **options)
