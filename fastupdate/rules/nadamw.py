"""NAdamW."""

from fastupdate.rules.adam import moments
from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, State, scalars
from fastupdate.rules.scalar import sqrt


class NAdamW:
    r"""AdamW that looks one step ahead along the mean gradient, as `timm.optim.NAdamW`.

        m ← β₁m + (1 − β₁)∇L            m̃ = (β₁m + (1 − β₁)∇L)/(1 − β₁ᵗ), with the new m
        v ← β₂v + (1 − β₂)∇L²           v̂ = v/(1 − β₂ᵗ)
        w ← w − α·(m̃/(√v̂ + ε) + λw)

    Source: the NAdamW of Dahl et al. (arXiv:2306.07179), as timm has it. It is no `NAdam` with decoupled decay: that
    corrects m and ∇L each by its own product of momenta, here both are over 1 − β₁ᵗ.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(1e-2, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
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
        ahead = (m + s.one_minus_beta1 * (g - m)) * s.correction1
        return -s.lr * (ahead / (sqrt(v * s.correction2) + s.eps) + s.weight_decay * p), m, v
