"""SGD with momentum."""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

from fastupdate.optimizer import Optimizer
from fastupdate.rules.rule import FRACTION, NON_NEGATIVE, Hyper, Rule
from fastupdate.step.options import Options


class Scalars(NamedTuple):
    lr: float
    momentum: float
    intake: float
    weight_decay: float


def prepare(h: Hyper, t: int) -> Scalars:
    return Scalars(
        lr=h["lr"],
        momentum=h["momentum"],
        intake=1.0 if t == 1 else 1 - h["dampening"],  # the first gradient enters the buffer undamped
        weight_decay=h["weight_decay"],
    )


def update(flags: Any, s: Any, g: Any, p: Any, b: Any) -> tuple[Any, ...]:
    g = g + s.weight_decay * p
    if flags.with_momentum:
        b = s.momentum * b + s.intake * g
        g = g + s.momentum * b if flags.nesterov else b
    return -s.lr * g, b


class SGD(Optimizer):
    r"""Stochastic gradient descent with momentum outside the learning rate, as `torch.optim.SGD`.

        g ← ∇L + λw
        b ← μb + (1 − dampening)·g      b ← g in the first step
        w ← w − αb                      w ← w − α(g + μb) with nesterov

    Source: Sutskever, Martens, Dahl & Hinton (ICML 2013), in the form of torch.optim.SGD. Without momentum there is no
    state.
    """

    rule = Rule(
        name="sgd",
        hypers={"lr": NON_NEGATIVE, "momentum": NON_NEGATIVE, "dampening": FRACTION, "weight_decay": NON_NEGATIVE},
        flags=("with_momentum", "nesterov"),
        flag_hypers={"with_momentum": "momentum"},
        states=("b",),
        state_flags={"b": "with_momentum"},
        momentum="b",
        prepare=prepare,
        update=update,
    )

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        momentum: Any = 0.0,
        dampening: Any = 0.0,
        weight_decay: Any = 0.0,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None:
        if nesterov and ((not callable(momentum) and momentum == 0) or (not callable(dampening) and dampening != 0)):
            raise ValueError("[sgd] nesterov: expected momentum > 0 and dampening 0, received others")
        hypers = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, hypers, {"nesterov": nesterov}, **options)
