"""QHAdam."""

from fastupdate.rules.adam import moments
from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, State, scalars
from fastupdate.rules.scalar import sqrt


class QHAdam:
    r"""Adam that mixes the gradient of the step with its means, as `pytorch_optimizer.QHAdam`.

        g ← ∇L + λw
        m ← β₁m + (1 − β₁)g             m̂ = m/(1 − β₁ᵗ)
        v ← β₂v + (1 − β₂)g²            v̂ = v/(1 − β₂ᵗ)
        w ← w − α·((1 − ν₁)g + ν₁m̂)/(√((1 − ν₂)g² + ν₂v̂) + ε)

    Source: Ma & Yarats (ICLR 2019), equation 10. With ν₁ = ν₂ = 1, the default, it is Adam; the paper recommends
    ν₁ = 0.7, ν₂ = 1 and β₁ = 0.995.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays")
    nu1 = Hyper(1.0, NON_NEGATIVE, "ν₁, the share of the mean gradient in the step")
    nu2 = Hyper(1.0, NON_NEGATIVE, "ν₂, the share of the mean squared gradient in the root")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")

    m = State("mean gradient", role="momentum")
    v = State("mean squared gradient")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            one_minus_beta1=1 - h.beta1,
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            of_m=h.nu1 / (1 - h.beta1**t),
            of_g=1 - h.nu1,
            of_v=h.nu2 / (1 - h.beta2**t),
            of_square=1 - h.nu2,
            eps=h.eps,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, m, v):
        g = g + s.weight_decay * p
        m, v = moments(s, g, m, v)
        return -s.lr * ((s.of_g * g + s.of_m * m) / (sqrt(s.of_square * (g * g) + s.of_v * v) + s.eps)), m, v
