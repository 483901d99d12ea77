"""AdaMuon."""

from fastupdate.rules.muon import coefficients, orthogonal
from fastupdate.rules.rule import BELOW_ONE, COUNT_OR_ZERO, FINITE, NON_NEGATIVE, Flag, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import sqrt


class AdaMuon:
    r"""Muon whose elements are divided by their running size, as `pytorch_optimizer.AdaMuon`.

        m ← β₁m + (1 − β₁)∇L
        o = the nearest orthogonal matrix to m, by `ns_steps` Newton–Schulz iterations
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
    ns_a = Hyper(3.4445, FINITE, "a, of the Newton–Schulz iteration's odd polynomial (see Muon)")
    ns_b = Hyper(-4.7750, FINITE, "b")
    ns_c = Hyper(2.0315, FINITE, "c")
    ns_steps = Hyper(5, COUNT_OR_ZERO, "how many iterations")
    quintic = Flag("take five triples of coefficients, one for each iteration, in place of a, b and c", of="matrix")
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
            ns_a=h.ns_a,
            ns_b=h.ns_b,
            ns_c=h.ns_c,
            ns_steps=h.ns_steps,
        )

    @staticmethod
    def measure(flags, s, g, p, m, v, o, scale):
        return m, v, m + s.one_minus_beta1 * (g - m)

    @staticmethod
    def matrix(flags, s, o):
        return orthogonal(o, s.ns_steps, coefficients(flags, s))

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
