"""ADOPT."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, State, scalars
from fastupdate.rules.scalar import maximum, sqrt, where


def clipped(x, limit):
    """x, or what is nearest to it between −limit and limit."""
    return where(x > limit, limit, where(x < -limit, -limit, x))


class ADOPT:
    r"""ADOPT: Adam that divides by the root of the v before this gradient, as `optax.contrib.adopt`.

        g ← ∇L + λw
        in step 1:  v ← g², and nothing else
        m ← β₁m + (1 − β₁)·clip(g/max(√v, ε), ±c),   c = (t − 1)^¼
        w ← w − αm
        v ← β₂v + (1 − β₂)g²

    Source: Taniguchi et al. (NeurIPS 2024), arXiv:2411.02853, algorithm 2, whose t = 1 is step 2 here; without_clip is
    algorithm 1.
    timm clips to (t − 1)^0.333: clip_exp=0.333. pytorch_optimizer clips to t^¼: clip_shift=1.
    With decay="decoupled" weights shrink in step 1 too, as in pytorch_optimizer; in timm they do not, as with
    weight_decay=lambda t: 0.1 if t else 0.0.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean direction stays from step to step")
    beta2 = Hyper(0.9999, BELOW_ONE, "how much of the mean squared gradient stays")
    eps = Hyper(1e-6, NON_NEGATIVE, "ε, the least root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")
    clip_exp = Hyper(0.25, NON_NEGATIVE, "the power of t − 1 that directions are clipped to")
    clip_shift = Hyper(0.0, NON_NEGATIVE, "what is added to t − 1 before")

    without_clip = Flag("do not clip")

    m = State("mean direction", role="momentum")
    v = State("mean squared gradient, up to the step before")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            one_minus_beta1=1 - h.beta1 if t > 1 else 0,  # in step 1 there is no v yet, and no step
            one_minus_beta2=1 - h.beta2 if t > 1 else 1,
            eps=h.eps if t > 1 else 1,
            clip=(t - 1 + h.clip_shift) ** h.clip_exp,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, m, v):
        g = g + s.weight_decay * p
        step = g / maximum(sqrt(v), s.eps)
        if not flags.without_clip:
            step = clipped(step, s.clip)
        m = m + s.one_minus_beta1 * (step - m)
        v = v + s.one_minus_beta2 * (g * g - v)
        return -s.lr * m, m, v
