"""MARS."""

from fastupdate.rules.adam import moments
from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import maximum, sqrt, where


def corrected(flags, s, g, last, axes):
    """The gradient with its variance reduced by the last one; of a vector, as it is."""
    c = g + (s.correction if flags.correct_first else s.first_correction) * (g - last)
    if not flags.optimize_1d:
        c = where(axes > 1.0, c, g)
    return c


class Mars:
    r"""MARS: AdamW of gradients whose variance the last one reduces, as `timm.optim.Mars`.

        c ← ∇L + γ·β₁/(1 − β₁)·(∇L − the last ∇L); ∇L in the first step
        c ← c/max(1, ‖c‖), the norm being of the tensor
        m ← β₁m + (1 − β₁)c             m̂ = m/(1 − β₁ᵗ)
        v ← β₂v + (1 − β₂)c²            v̂ = v/(1 − β₂ᵗ)
        w ← w − α·(m̂/(√v̂ + ε) + λw)

    Vectors take AdamW's step, c being ∇L, unless optimize_1d.

    Source: Yuan et al., arXiv:2411.10438, algorithm 2, with the last gradient in place of one of the last weights on
    this batch (MARS-approx). pytorch_optimizer has β₁ 0.95, and takes 0 for the gradient before the first:
    correct_first, which makes a difference to gradients shorter than 1.
    """

    lr = Hyper(3e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.99, BELOW_ONE, "how much of the mean squared gradient stays")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    gamma = Hyper(0.025, NON_NEGATIVE, "γ, how much of the variance is taken away")
    decoupled_decay = True

    optimize_1d = Flag("correct and clip vectors too")
    correct_first = Flag("correct in the first step too, by a last gradient of 0")

    m = State("mean gradient", role="momentum")
    v = State("mean squared gradient")
    last = State("the last gradient")
    scale = State("what c was multiplied by in the last step", per="tensor", start=1.0)
    axes = State("how many axes the tensor has", per="tensor", start="ndim")

    squares = Sum("‖c‖²", per="tensor")

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
            correction=h.gamma * h.beta1 / (1 - h.beta1),
            first_correction=h.gamma * h.beta1 / (1 - h.beta1) if t > 1 else 0.0,
        )

    @staticmethod
    def measure(flags, s, g, p, m, v, last, scale, axes):
        c = corrected(flags, s, g, last, axes)
        return c * c, m, v, last

    @staticmethod
    def settle_tensor(flags, s, n, squares, scale, axes):
        scale = 1.0 / maximum(1.0, sqrt(squares))
        if not flags.optimize_1d:
            scale = where(axes > 1.0, scale, 1.0)
        return scale, axes

    @staticmethod
    def update(flags, s, g, p, m, v, last, scale, axes):
        m, v = moments(s, scale * corrected(flags, s, g, last, axes), m, v)
        step = m * s.correction1 / (sqrt(v * s.correction2) + s.eps)
        last = g
        return -s.lr * (step + s.weight_decay * p), m, v, last
