"""RMSprop."""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

from numpy import sqrt

from fastupdate.optimizer import Optimizer
from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, Rule
from fastupdate.rules.scalar import positive_part
from fastupdate.step.options import Options


class Scalars(NamedTuple):
    lr: float
    alpha: float
    one_minus_alpha: float
    eps: float
    weight_decay: float
    momentum: float


def prepare(h: Hyper, t: int) -> Scalars:
    return Scalars(
        lr=h["lr"],
        alpha=h["alpha"],
        one_minus_alpha=1 - h["alpha"],
        eps=h["eps"],
        weight_decay=h["weight_decay"],
        momentum=h["momentum"],
    )


def update(flags: Any, s: Any, g: Any, p: Any, v: Any, g_mean: Any, b: Any) -> tuple[Any, ...]:
    g = g + s.weight_decay * p
    v = s.alpha * v + s.one_minus_alpha * (g * g)
    variance = v
    if flags.centered:
        g_mean = g_mean + s.one_minus_alpha * (g - g_mean)
        variance = positive_part(v - g_mean * g_mean)  # rounding can take it below zero
    step = g / (sqrt(variance) + s.eps)
    if flags.with_momentum:
        b = s.momentum * b + step
        step = b
    return -s.lr * step, v, g_mean, b


class RMSprop(Optimizer):
    r"""RMSprop: the gradient over its running root mean square, as `torch.optim.RMSprop`.

        g ← ∇L + λw
        v ← αv + (1 − α)g²
        w ← w − γ·g/(√v + ε)
        centered:     ḡ ← αḡ + (1 − α)g, and √(v − ḡ²) in place of √v
        momentum μ:   b ← μb + g/(√v + ε), w ← w − γb

    Source: Tieleman & Hinton, Lecture 6.5 (2012); centered: Graves, arXiv:1308.0850, equations 38–45.
    Unlike torch, a v − ḡ² that rounding makes negative counts as zero instead of giving NaN.
    """

    rule = Rule(
        name="rmsprop",
        hypers={
            "lr": NON_NEGATIVE,
            "alpha": BELOW_ONE,
            "eps": NON_NEGATIVE,
            "weight_decay": NON_NEGATIVE,
            "momentum": NON_NEGATIVE,
        },
        flags=("centered", "with_momentum"),
        flag_hypers={"with_momentum": "momentum"},
        states=("v", "g_mean", "b"),
        state_flags={"g_mean": "centered", "b": "with_momentum"},
        momentum="b",
        prepare=prepare,
        update=update,
    )

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        alpha: Any = 0.99,
        eps: Any = 1e-8,
        weight_decay: Any = 0.0,
        momentum: Any = 0.0,
        centered: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hypers = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, hypers, {"centered": centered}, **options)
