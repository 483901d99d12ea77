"""AdaBelief."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, State, scalars
from fastupdate.rules.scalar import rectification, sqrt, where


class AdaBelief:
    r"""Adam by how far gradients are from their mean, as `optax.adabelief`.

        m ← β₁m + (1 − β₁)g             m̂ = m/(1 − β₁ᵗ),  g = ∇L + λw
        v ← β₂v + (1 − β₂)(g − m)² + ε_root
        w ← w − α·m̂/(√(v/(1 − β₂ᵗ)) + ε)
        rectify:   w ← w − α·m̂·r√(1 − β₂ᵗ)/(√v + ε), r being RAdam's, and w ← w − α·m̂ while ρ ≤ 5, as timm

    Source: Zhuang et al. (NeurIPS 2020), algorithm 2. ε_root stays in v from step to step, as in the paper and in
    optax. timm's class rectifies by default, its factory's "adabelief" does not.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared difference stays")
    eps = Hyper(1e-16, NON_NEGATIVE, "ε, added to the root")
    eps_root = Hyper(1e-16, NON_NEGATIVE, "ε_root, added to v in each step")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")

    rectify = Flag("take first steps by momentum alone, and then shorter ones, as RAdam")

    m = State("mean gradient", role="momentum")
    v = State("mean squared difference of gradient and mean")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr / (1 - h.beta1**t),
            rectified=sqrt(rectification(h.beta2, h.beta2**t, t, 5.0) * (1 - h.beta2**t)),
            one_minus_beta1=1 - h.beta1,
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            correction2=1 / (1 - h.beta2**t),
            eps=h.eps,
            eps_root=h.eps_root,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, m, v):
        g = g + s.weight_decay * p
        m = m + s.one_minus_beta1 * (g - m)
        difference = g - m
        v = s.beta2 * v + s.one_minus_beta2 * (difference * difference) + s.eps_root
        step = m / (sqrt(v * s.correction2) + s.eps)
        if flags.rectify:
            step = where(s.rectified > 0.0, s.rectified * (m / (sqrt(v) + s.eps)), m)
        return -s.lr * step, m, v
