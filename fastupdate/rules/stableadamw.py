"""StableAdamW."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import maximum, sqrt


class StableAdamW:
    r"""StableAdamW: AdamW whose learning rate is clipped in each tensor as Adafactor's, as `optimi.StableAdamW`.

        m ← β̂₁m + (1 − β̂₁)∇L            β̂ = β·(1 − βᵗ⁻¹)/(1 − βᵗ), which makes m and v what Adam's m̂ and v̂ are
        v ← β̂₂v + (1 − β̂₂)∇L²
        a ← α/max(1, rms of ∇L/√max(v, ε²)), over the tensor
        w ← w − a·(m/(√v + ε) + λw)

    Source: Wortsman et al., arXiv:2304.13013, algorithm 2. optimi's decouple_lr is the option decay="independent"
    with a weight_decay of λα, of an α that is not clipped. pytorch_optimizer's has ε = 1e-8, and Kahan sums in 16 bits.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "largest learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.99, BELOW_ONE, "how much of the mean squared gradient stays")
    eps = Hyper(1e-6, NON_NEGATIVE, "ε, added to the root, and the least root that clips")
    weight_decay = Hyper(1e-2, NON_NEGATIVE, "λ: weights shrink by aλ of themselves")
    decoupled_decay = True
    own_decay = True

    m = State("mean gradient", role="momentum")
    v = State("mean squared gradient")
    rate = State("a in the last step", per="tensor")

    ratios = Sum("∇L²/max(v, ε²)", per="tensor")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            share1=(1 - h.beta1) / (1 - h.beta1**t),
            share2=(1 - h.beta2) / (1 - h.beta2**t),
            eps=h.eps,
            eps_squared=h.eps * h.eps,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def measure(flags, s, g, p, m, v, rate):
        square = g * g
        m = m + s.share1 * (g - m)
        v = v + s.share2 * (square - v)
        return square / maximum(v, s.eps_squared), m, v

    @staticmethod
    def settle_tensor(flags, s, n, ratios, rate):
        return s.lr / maximum(1.0, sqrt(ratios / n))

    @staticmethod
    def update(flags, s, g, p, m, v, rate):
        return -rate * (m / (sqrt(v) + s.eps) + s.weight_decay * p), m, v
