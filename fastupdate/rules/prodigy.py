"""Prodigy."""

import math

from fastupdate.rules.rule import BELOW_ONE, GROWTH, NON_NEGATIVE, POSITIVE, Flag, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import absolute, maximum, sqrt, where


class Prodigy:
    r"""Prodigy: AdamW that finds the learning rate by how far the weights have come, as `prodigyopt.Prodigy`.

        N ← β₃N + (d/d₀)·dα·Σ ∇L·(w₀ − w), over all tensors
        m ← β₁m + d(1 − β₁)∇L
        v ← β₂v + d²(1 − β₂)∇L²
        z ← β₃z + (d/d₀)·dα·∇L
        w ← w − dα·(m/(√v + d'ε) + λw),   d' = max(d, c·N/Σ|z|)

    and d' is the next step's d. β₃ is √β₂ unless it is given. d' is at most growth_rate times d, but in the first step
    that moves it. α is multiplied by √(1 − β₂ᵗ)/(1 − β₁ᵗ) with bias correction.

    Source: Mishchenko & Defazio (ICML 2024), algorithm 4, and the authors' code, whose decouple=False is
    decay="coupled", and which can look at every slice_p-th element alone. optax.contrib.prodigy corrects always:
    use_bias_correction=True.
    The learning rate of the first group enters N; groups are expected to share one.
    """

    lr = Hyper(1.0, NON_NEGATIVE, "learning rate α: a factor of the one that is found")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by dαλ of themselves")
    d0 = Hyper(1e-6, POSITIVE, "the first estimate of d")
    d_coef = Hyper(1.0, POSITIVE, "c, a factor of the estimates")
    beta3 = Hyper(0.0, BELOW_ONE, "β₃, how much of N and z stays; 0: √β₂")
    growth_rate = Hyper(math.inf, GROWTH, "the most times what it was that d may become in a step")
    own_decay = True
    found_rate = True

    use_bias_correction = Flag("correct the first steps as Adam does")
    safeguard_warmup = Flag("leave α out of z, so that a warm-up does not mislead the estimate")

    m = State("mean gradient times d", role="momentum")
    v = State("mean squared gradient times d²")
    z = State("weighted sum of gradients")
    p0 = State("the first weights w₀", start="p")
    d = State("the estimate", per="list", start="d0")
    d_max = State("what d grows towards", per="list", start="d0", remade=True)
    d_now = State("the estimate that the last step was taken with", per="list", start="d0", remade=True)
    numerator = State("N", per="list")

    product = Sum("∇L·(w₀ − w)", per="list")
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
            beta3=h.beta3 if h.beta3 > 0 else sqrt(h.beta2),
            eps=h.eps,
            weight_decay=h.weight_decay,
            d0=h.d0,
            d_coef=h.d_coef,
            growth_rate=h.growth_rate,
        )

    @staticmethod
    def measure(flags, s, g, p, m, v, z, p0, d, d_max, d_now, numerator):
        lr = s.corrected_lr if flags.use_bias_correction else s.lr
        z = s.beta3 * z + d / s.d0 * (d if flags.safeguard_warmup else d * lr) * g
        return g * (p0 - p), absolute(z), m, v, z, p0

    @staticmethod
    def settle_list(flags, s, n, product, length, d, d_max, d_now, numerator):
        lr = s.corrected_lr if flags.use_bias_correction else s.lr
        numerator = s.beta3 * numerator + d / s.d0 * (d * lr) * product
        estimate = where(length > 0.0, s.d_coef * numerator / length, d)
        estimate = where(lr > 0.0, estimate, d)
        d_max = maximum(maximum(d, d_max), estimate)
        grown = s.growth_rate * where(d > s.d0, d, maximum(d, estimate))
        grown = where(lr > 0.0, where(d_max > grown, grown, d_max), d)
        return grown, d_max, d, numerator

    @staticmethod
    def update(flags, s, g, p, m, v, z, p0, d, d_max, d_now, numerator):
        lr = d_now * (s.corrected_lr if flags.use_bias_correction else s.lr)
        m = s.beta1 * m + d_now * s.one_minus_beta1 * g
        v = s.beta2 * v + d_now * d_now * s.one_minus_beta2 * (g * g)
        return -lr * (m / (sqrt(v) + d * s.eps) + s.weight_decay * p), m, v, z, p0
