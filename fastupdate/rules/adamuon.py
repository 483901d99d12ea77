"""AdaMuon."""

from fastupdate.rules.muon import orthogonal
from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import sqrt


class AdaMuon:
    r"""Muon whose elements are divided by their running size, as `pytorch_optimizer.AdaMuon`.

        m ← β₁m + (1 − β₁)∇L
        o = the nearest orthogonal matrix to m, by five Newton–Schulz iterations
        v ← β₂v + (1 − β₂)o²            v̂ = v/(1 − β₂ᵗ)
        ô = o/(√v̂ + ε)
        w ← w − αλw − α·0.2·√n·ô/(‖ô‖ + ε),     of n elements

    so that steps are as long as AdamW's.

    Source: Si et al., arXiv:2507.11005 (2025), in the form of pytorch_optimizer, whose `use_adjusted_lr` is True here.
    The matrix products are those of the array library, in the parameter's type (pytorch_optimizer: bfloat16), and their
    bits are its own.
    """

    lr = Hyper(2e-2, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.95, BELOW_ONE, "how much of the mean square of directions stays")
    eps = Hyper(1e-10, NON_NEGATIVE, "ε, added to roots")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    decoupled_decay = True

    m = State("mean gradient", role="momentum")
    v = State("mean square of directions")
    o = State("the direction", lasts=False)
    scale = State("what ô is multiplied by", per="tensor", lasts=False)

    squares = Sum("ô²", per="tensor", of="measure_2")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            one_minus_beta1=1 - h.beta1,
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            correction2=1 / (1 - h.beta2**t),
            eps=h.eps,
            shrink=h.lr * h.weight_decay,
        )

    @staticmethod
    def measure(flags, s, g, p, m, v, o, scale):
        return m, v, m + s.one_minus_beta1 * (g - m)

    @staticmethod
    def matrix(flags, o):
        return orthogonal(o)

    @staticmethod
    def measure_2(flags, s, g, p, m, v, o, scale):
        v = s.beta2 * v + s.one_minus_beta2 * (o * o)
        o = o / (sqrt(v * s.correction2) + s.eps)
        return o * o, m, v, o

    @staticmethod
    def settle_tensor(flags, s, n, squares, scale):
        return 0.2 * sqrt(n) / (sqrt(squares) + s.eps)

    @staticmethod
    def update(flags, s, g, p, m, v, o, scale):
        m = m + s.one_minus_beta1 * (g - m)
        return -(s.shrink * p) - s.lr * scale * o, m, v, o
