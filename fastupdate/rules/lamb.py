"""LAMB."""

import math

from fastupdate.rules.adam import moments
from fastupdate.rules.rule import BELOW_ONE, LIMIT, NON_NEGATIVE, Flag, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import maximum, sqrt, where


def step_of(s, p, m, v):
    """m̂ / (√v̂ + ε) + λw."""
    return m * s.correction1 / (sqrt(v * s.correction2) + s.eps) + s.weight_decay * p


class Lamb:
    r"""LAMB: Adam's step, made as long in each tensor as its weights are, as `optax.lamb`.

        m ← β₁m + (1 − β₁)∇L            m̂ = m/(1 − β₁ᵗ)
        v ← β₂v + (1 − β₂)∇L²           v̂ = v/(1 − β₂ᵗ)
        r ← m̂/(√v̂ + ε) + λw
        w ← w − α·q·r, q = ‖w‖/‖r‖, the norms being of the tensor; 1 where either is 0
        trust_clip:       q is at most 1 (LAMBC)
        adapt_decayed:    q is 1 where λ is 0, as it is within the step under another decay=

    Source: You et al. (ICLR 2020), algorithm 2, with φ the identity. `timm.optim.Lamb` and apex' FusedLAMB have
    adapt_decayed unless they are told otherwise (always_adapt, use_nvlamb), and clip the norm of all gradients to 1.
    DeepSpeed keeps q within [0.01, 10]: trust_min and trust_max. Keras decays before the step, outside r: that is
    decay="decoupled".
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays")
    eps = Hyper(1e-6, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, which pulls weights to zero as part of the step")
    trust_min = Hyper(0.0, NON_NEGATIVE, "the least q of a tensor that is adapted")
    trust_max = Hyper(math.inf, LIMIT, "the largest q of such a tensor")
    own_decay = True

    trust_clip = Flag("let no step be longer than Adam's")
    adapt_decayed = Flag("adapt only tensors that have weight decay")

    m = State("mean gradient", role="momentum")
    v = State("mean squared gradient")
    trust = State("q in the last step", per="tensor", start=1.0)

    step_squares = Sum("‖r‖²", per="tensor")
    weight_squares = Sum("‖w‖²", per="tensor")

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
            trust_min=h.trust_min,
            trust_max=h.trust_max,
        )

    @staticmethod
    def measure(flags, s, g, p, m, v, trust):
        m, v = moments(s, g, m, v)
        r = step_of(s, p, m, v)
        return r * r, p * p, m, v

    @staticmethod
    def settle_tensor(flags, s, n, step_squares, weight_squares, trust):
        ratio = sqrt(weight_squares) / sqrt(step_squares)
        ratio = maximum(where(ratio > s.trust_max, s.trust_max, ratio), s.trust_min)
        ratio = where(step_squares > 0.0, ratio, 1.0)
        ratio = where(weight_squares > 0.0, ratio, 1.0)
        if flags.trust_clip:
            ratio = where(ratio > 1.0, 1.0, ratio)
        if flags.adapt_decayed:
            ratio = where(s.weight_decay > 0.0, ratio, 1.0)
        return ratio

    @staticmethod
    def update(flags, s, g, p, m, v, trust):
        return -s.lr * (trust * step_of(s, p, m, v)), m, v
