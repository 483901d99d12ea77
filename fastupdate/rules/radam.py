"""RAdam."""

from fastupdate.rules.adam import moments
from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, Interval, State, scalars
from fastupdate.rules.scalar import rectification, sqrt, where


class RAdam:
    r"""Adam whose first steps are those of momentum, while v says too little, as `torch.optim.RAdam`.

        g ← ∇L + λw
        m ← β₁m + (1 − β₁)g             m̂ = m/(1 − β₁ᵗ)
        v ← β₂v + (1 − β₂)g²            v̂' = (√v + ε)/√(1 − β₂ᵗ)
        ρ = ρ∞ − 2tβ₂ᵗ/(1 − β₂ᵗ),       ρ∞ = 2/(1 − β₂) − 1
        w ← w − α·r·m̂/v̂'               where ρ > 5, with r² = (ρ − 4)(ρ − 2)ρ∞ / ((ρ∞ − 4)(ρ∞ − 2)ρ)
        w ← w − α·m̂                     elsewhere
        eps_outside:   v̂' = √(v/(1 − β₂ᵗ)) + ε, as optax

    Source: Liu et al. (ICLR 2020), algorithm 2, where the threshold is 4; 5, and where ε stands, are torch's. optax and
    thinc take ρ ≥ 5: with threshold=4.999999999999999 that is so to the last digit. `decoupled_weight_decay=True` of
    torch is the option `decay="decoupled"`. thinc counts from t = 2: `opt.start_at(2)`.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")
    threshold = Hyper(5.0, Interval(4.0), "the ρ up to which steps are those of momentum")

    eps_outside = Flag("add ε to the root when it has been corrected")

    m = State("mean gradient", role="momentum")
    v = State("mean squared gradient")

    @staticmethod
    def prepare(h, t):
        power = h.beta2**t
        ratio = rectification(h.beta2, power, t, h.threshold)
        rectified = sqrt(ratio * (1 - power))
        return scalars(
            plain=h.lr / (1 - h.beta1**t),
            adaptive=h.lr / (1 - h.beta1**t) * rectified,
            rectified=rectified,
            corrected=h.lr / (1 - h.beta1**t) * sqrt(ratio),
            correction2=1 / (1 - power),
            one_minus_beta1=1 - h.beta1,
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            eps=h.eps,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, m, v):
        g = g + s.weight_decay * p
        m, v = moments(s, g, m, v)
        step = s.adaptive * (m / (sqrt(v) + s.eps))
        if flags.eps_outside:
            step = s.corrected * (m / (sqrt(v * s.correction2) + s.eps))
        return -where(s.rectified > 0.0, step, s.plain * m), m, v
