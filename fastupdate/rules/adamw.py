"""AdamW."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Unpack

from fastupdate.optimizer import Optimizer
from fastupdate.rules.adam import Adam, direction
from fastupdate.step.options import Options


def update(flags: Any, s: Any, g: Any, p: Any, m: Any, v: Any, v_max: Any) -> tuple[Any, ...]:
    step, m, v, v_max = direction(flags, s, g, m, v, v_max)
    return -s.lr * (step + s.weight_decay * p), m, v, v_max


class AdamW(Optimizer):
    r"""Adam with decoupled weight decay, as `torch.optim.AdamW`.

        m ← β₁m + (1 − β₁)∇L            m̂ = m/(1 − β₁ᵗ)
        v ← β₂v + (1 − β₂)∇L²           v̂ = v/(1 − β₂ᵗ), of the largest v so far with amsgrad
        w ← w − α·(m̂/(√v̂ + ε) + λw)

    Source: Loshchilov & Hutter (ICLR 2019), algorithm 2, with the decay times the learning rate.
    """

    rule = replace(Adam.rule, name="adamw", update=update, decoupled_decay=True)

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-8,
        weight_decay: Any = 1e-2,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hypers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, hypers, {"amsgrad": amsgrad}, **options)
