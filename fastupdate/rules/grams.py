"""Grams."""

from fastupdate.rules.adam import moments
from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, State, scalars
from fastupdate.rules.scalar import absolute, sign, sqrt


class Grams:
    r"""Grams: as far as Adam goes, in the direction of the present gradient, as `pytorch_optimizer.Grams`.

        m ← β₁m + (1 − β₁)∇L            m̂ = m/(1 − β₁ᵗ)
        v ← β₂v + (1 − β₂)∇L²           v̂ = v/(1 − β₂ᵗ)
        w ← w − α·(sign(∇L)·|m̂|/(√v̂ + ε) + λw)

    Source: Cao et al., arXiv:2412.17107 (2024), algorithm 1.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays")
    eps = Hyper(1e-6, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    decoupled_decay = True

    m = State("mean gradient", role="momentum")
    v = State("mean squared gradient")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            one_minus_beta1=1 - h.beta1,
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            correction1=1 / (1 - h.beta1**t),
            correction2=1 / (1 - h.beta2**t),
            eps=h.eps,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, m, v):
        m, v = moments(s, g, m, v)
        size = absolute(m) * s.correction1 / (sqrt(v * s.correction2) + s.eps)
        return -s.lr * (sign(g) * size + s.weight_decay * p), m, v
