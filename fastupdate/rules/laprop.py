"""LaProp."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, State, scalars
from fastupdate.rules.scalar import sqrt, where


class LaProp:
    r"""Momentum of gradients that have been normalised, as `timm.optim.LaProp`.

        v ← β₂v + (1 − β₂)∇L²           v̂ = v/(1 − β₂ᵗ)
        m ← β₁m + (1 − β₁)·∇L/(√v̂ + ε)  m̂ = m/(1 − β₁ᵗ)
        w ← (1 − αλ)·(w − αm̂)

        lr_in_mean:   m ← β₁m + (1 − β₁)·α·∇L/(√v̂ + ε), ᾱ ← β₁ᾱ + (1 − β₁)α, m̂ = m/ᾱ, as timm and the authors

    Source: Ziyin, Wang & Ueda (arXiv:2002.04839), algorithm 1, with the authors' decay after the step. Their code has
    each step's α within m, which is the same while α stays as it is.
    """

    lr = Hyper(4e-4, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean step stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays")
    eps = Hyper(1e-15, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    decoupled_decay = True
    own_decay = True

    lr_in_mean = Flag("weigh normalised gradients by the learning rates of their steps")

    m = State("mean normalised gradient", role="momentum")
    v = State("mean squared gradient")
    rate = State("mean learning rate ᾱ", when="lr_in_mean")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            one_minus_beta1=1 - h.beta1,
            correction1=1 / (1 - h.beta1**t),
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            correction2=1 / (1 - h.beta2**t),
            eps=h.eps,
            decay=h.lr * h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, m, v, rate):
        v = s.beta2 * v + s.one_minus_beta2 * (g * g)
        normal = g / (sqrt(v * s.correction2) + s.eps)
        m = m + s.one_minus_beta1 * ((s.lr * normal if flags.lr_in_mean else normal) - m)
        step = -s.lr * (m * s.correction1)
        if flags.lr_in_mean:
            rate = rate + s.one_minus_beta1 * (s.lr - rate)
            step = where(rate > 0.0, -s.lr * (m / rate), 0.0 * m)
        return step - s.decay * (p + step), m, v, rate
