"""Classical momentum."""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

from fastupdate.optimizer import Optimizer
from fastupdate.rules.rule import NON_NEGATIVE, Hyper, Rule
from fastupdate.step.options import Options


class Scalars(NamedTuple):
    lr: float
    beta: float
    weight_decay: float


def prepare(h: Hyper, t: int) -> Scalars:
    return Scalars(lr=h["lr"], beta=h["beta"], weight_decay=h["weight_decay"])


def update(flags: Any, s: Any, g: Any, p: Any, v: Any) -> tuple[Any, ...]:
    g = g + s.weight_decay * p
    v = s.beta * v - s.lr * g
    return (s.beta * v - s.lr * g if flags.nesterov else v), v


class Momentum(Optimizer):
    r"""Classical momentum: the learning rate is inside the velocity, as in Keras' SGD.

        g ← ∇L + λw
        v ← βv − αg
        w ← w + v                       w ← w + βv − αg with nesterov

    Equal to `SGD` only while the learning rate stays constant. Source: Polyak (1964); Sutskever et al. (ICML 2013).
    """

    rule = Rule(
        name="momentum",
        hypers={"lr": NON_NEGATIVE, "beta": NON_NEGATIVE, "weight_decay": NON_NEGATIVE},
        flags=("nesterov",),
        states=("v",),
        momentum="v",
        momentum_sign=-1,
        prepare=prepare,
        update=update,
    )

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        beta: Any = 0.9,
        weight_decay: Any = 0.0,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "weight_decay": weight_decay}
        super().__init__(params, hypers, {"nesterov": nesterov}, **options)
