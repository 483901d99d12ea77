"""D-Adaptation of SGD."""

import math

from fastupdate.rules.rule import BELOW_ONE, GROWTH, NON_NEGATIVE, POSITIVE, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import maximum, sqrt, where


class DAdaptSGD:
    r"""D-Adaptation of SGD: finds the learning rate by how far gradients agree, as `pytorch_optimizer.DAdaptSGD`.

        g ← ∇L + λw
        N ← N + dα·Σ g·z/G², over all tensors; G is the norm of the first ∇L
        z ← z + dα·g
        w ← μw + (1 − μ)·(w₀ − z/G)
        d ← max(d, 2N·G/‖z‖)

    but d becomes at most growth_rate times what it was.

    Source: Defazio & Mishchenko (ICML 2023), arXiv:2301.07733, algorithm 4, as in the authors' code. The learning rate
    of the first group enters N; groups are expected to share one.
    """

    lr = Hyper(1.0, NON_NEGATIVE, "learning rate α: a factor of the one that is found")
    momentum = Hyper(0.9, BELOW_ONE, "μ, how much of the weights stays from step to step")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")
    d0 = Hyper(1e-6, POSITIVE, "the first estimate of d")
    growth_rate = Hyper(math.inf, GROWTH, "the most times what it was that d may become in a step")
    own_decay = True
    found_rate = True

    z = State("weighted sum of gradients")
    p0 = State("the first weights w₀", start="p")
    d = State("the estimate", per="list", start="d0")
    numerator = State("N", per="list")
    shrink = State("1/G", per="list")

    product = Sum("g·z", per="list")
    squares = Sum("z²", per="list")
    grad_squares = Sum("‖∇L‖²", per="list")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr, one_minus_momentum=1 - h.momentum, weight_decay=h.weight_decay, growth_rate=h.growth_rate
        )

    @staticmethod
    def measure(flags, s, g, p, z, p0, d, numerator, shrink):
        square = g * g
        g = g + s.weight_decay * p
        product = g * z
        z = z + d * s.lr * g
        return product, z * z, square, z, p0

    @staticmethod
    def settle_list(flags, s, n, product, squares, grad_squares, d, numerator, shrink):
        shrink = where(shrink > 0.0, shrink, where(grad_squares > 0.0, 1.0 / sqrt(grad_squares), 0.0))
        numerator = numerator + d * s.lr * (product * (shrink * shrink))
        estimate = where(squares * shrink > 0.0, 2.0 * numerator / (sqrt(squares) * shrink), d)
        estimate = where(s.lr > 0.0, estimate, d)
        estimate = where(estimate > d * s.growth_rate, d * s.growth_rate, estimate)
        return maximum(d, estimate), numerator, shrink

    @staticmethod
    def update(flags, s, g, p, z, p0, d, numerator, shrink):
        return s.one_minus_momentum * (p0 - z * shrink - p), z, p0
