"""Yogi."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, State, scalars
from fastupdate.rules.scalar import sign, sqrt


class Yogi:
    r"""Adam whose v moves by additions, no faster than squares of gradients, as `optax.yogi`.

        g ← ∇L + λw
        m ← β₁m + (1 − β₁)g             m̂ = m/(1 − β₁ᵗ)
        v ← v − (1 − β₂)·sign(v − g²)·g²   v̂ = v/(1 − β₂ᵗ)
        w ← w − α·m̂/(√v̂ + ε)

    Source: Zaheer et al. (NeurIPS 2018), algorithm 2, with Adam's corrections. m and v start from
    initial_accumulator_value: 1e-6, as in optax; pytorch_optimizer has lr = 0.01.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "1 minus how much of a squared gradient v moves by")
    eps = Hyper(1e-3, NON_NEGATIVE, "ε, added to the root")
    initial_accumulator_value = Hyper(1e-6, NON_NEGATIVE, "what m and v start from")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")

    m = State("mean gradient", start="initial_accumulator_value", role="momentum")
    v = State("size of squared gradients", start="initial_accumulator_value")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr / (1 - h.beta1**t),
            one_minus_beta1=1 - h.beta1,
            one_minus_beta2=1 - h.beta2,
            correction2=1 / (1 - h.beta2**t),
            eps=h.eps,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, m, v):
        g = g + s.weight_decay * p
        square = g * g
        m = m + s.one_minus_beta1 * (g - m)
        v = v - s.one_minus_beta2 * (sign(v - square) * square)
        return -s.lr * (m / (sqrt(v * s.correction2) + s.eps)), m, v
