"""Simplified AdEMAMix."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, State, scalars
from fastupdate.rules.scalar import sqrt


class SimplifiedAdEMAMix:
    r"""Simplified AdEMAMix: a sum of past gradients, and the present one besides, as `optax.contrib`'s.

        m ← β₁m + ∇L                    a sum: with α = 0, η is 1/(1 − β₁) times Adam's
        v ← β₂v + (1 − β₂)∇L²           v̂ = v/(1 − β₂ᵗ)
        w ← w − η·((m + α∇L)/(√v̂ + ε) + λw)

    Source: Morwani, Vyas, Zhang & Kakade, arXiv:2502.02431 (2025).
    pytorch_optimizer's class of this name keeps a mean, (1 − β₁) times as much, and another correction: it is not this.
    """

    lr = Hyper(1e-4, NON_NEGATIVE, "learning rate η")
    beta1 = Hyper(0.99, BELOW_ONE, "how much of the sum of gradients stays from step to step")
    beta2 = Hyper(0.95, BELOW_ONE, "how much of the mean squared gradient stays")
    alpha = Hyper(0.0, NON_NEGATIVE, "α, how much of the present gradient is in the step")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by ηλ of themselves")
    decoupled_decay = True

    m = State("sum of gradients", role="momentum")
    v = State("mean squared gradient")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            beta1=h.beta1,
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            correction2=1 / (1 - h.beta2**t),
            alpha=h.alpha,
            eps=h.eps,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, m, v):
        m = s.beta1 * m + g
        v = s.beta2 * v + s.one_minus_beta2 * (g * g)
        step = (m + s.alpha * g) / (sqrt(v * s.correction2) + s.eps)
        return -s.lr * (step + s.weight_decay * p), m, v
