"""D-Adaptation of Adam."""

import math

from fastupdate.rules.rule import BELOW_ONE, GROWTH, NON_NEGATIVE, POSITIVE, Flag, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import absolute, maximum, sqrt, where


class DAdaptAdam:
    r"""D-Adaptation of Adam: finds the learning rate by how far gradients agree, as `pytorch_optimizer.DAdaptAdam`.

        g ← ∇L + λw
        N ← √β₂·N + (1 − √β₂)·dα·Σ g·z/(√v + ε), over all tensors
        m ← β₁m + (1 − β₁)·dα·g
        v ← β₂v + (1 − β₂)g²
        z ← √β₂·z + (1 − √β₂)·dα·g
        w ← w − m/(√v + ε)
        d ← max(d, N/((1 − √β₂)·Σ|z|))
        decouple:              g = ∇L, and w ← w − dαλw as well
        use_bias_correction:   α is multiplied by √(1 − β₂ᵗ)/(1 − β₁ᵗ)

    but d becomes at most growth_rate times what it was.

    Source: Defazio & Mishchenko (ICML 2023), arXiv:2301.07733, algorithm 5, as in the authors' code. The learning rate
    of the first group enters N; groups are expected to share one.
    """

    lr = Hyper(1.0, NON_NEGATIVE, "learning rate α: a factor of the one that is found")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays")
    eps = Hyper(1e-8, POSITIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty; with decouple, weights shrink by dαλ of themselves")
    d0 = Hyper(1e-6, POSITIVE, "the first estimate of d")
    growth_rate = Hyper(math.inf, GROWTH, "the most times what it was that d may become in a step")
    own_decay = True
    found_rate = True

    use_bias_correction = Flag("correct the first steps as Adam does")
    decouple = Flag("shrink weights instead of adding to gradients")

    m = State("mean gradient times dα", role="momentum")
    v = State("mean squared gradient")
    z = State("weighted sum of gradients")
    d = State("the estimate", per="list", start="d0")
    d_now = State("the estimate that the last step was taken with", per="list", start="d0", remade=True)
    numerator = State("N", per="list")

    product = Sum("g·z/(√v + ε)", per="list")
    length = Sum("|z|", per="list")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            corrected_lr=h.lr * (sqrt(1 - h.beta2**t) / (1 - h.beta1**t)),
            beta1=h.beta1,
            one_minus_beta1=1 - h.beta1,
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            beta3=sqrt(h.beta2),
            one_minus_beta3=1 - sqrt(h.beta2),
            eps=h.eps,
            weight_decay=h.weight_decay,
            growth_rate=h.growth_rate,
        )

    @staticmethod
    def measure(flags, s, g, p, m, v, z, d, d_now, numerator):
        if not flags.decouple:
            g = g + s.weight_decay * p
        rate = d * (s.corrected_lr if flags.use_bias_correction else s.lr)
        product = g * (z / (sqrt(v) + s.eps))
        z = s.beta3 * z + rate * s.one_minus_beta3 * g
        return product, absolute(z), m, v, z

    @staticmethod
    def settle_list(flags, s, n, product, length, d, d_now, numerator):
        lr = s.corrected_lr if flags.use_bias_correction else s.lr
        numerator = s.beta3 * numerator + s.one_minus_beta3 * (d * lr * product)
        estimate = where(length > 0.0, numerator / (s.one_minus_beta3 * length), d)
        estimate = where(lr > 0.0, estimate, d)
        estimate = where(estimate > d * s.growth_rate, d * s.growth_rate, estimate)
        return maximum(d, estimate), d, numerator

    @staticmethod
    def update(flags, s, g, p, m, v, z, d, d_now, numerator):
        rate = d_now * (s.corrected_lr if flags.use_bias_correction else s.lr)
        if not flags.decouple:
            g = g + s.weight_decay * p
        m = s.beta1 * m + rate * s.one_minus_beta1 * g
        v = s.beta2 * v + s.one_minus_beta2 * (g * g)
        step = m / (sqrt(v) + s.eps)
        if flags.decouple:
            step = step + rate * s.weight_decay * p
        return -step, m, v, z
