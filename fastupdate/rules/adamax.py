"""Adamax."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, State, scalars
from fastupdate.rules.scalar import absolute, maximum


class Adamax:
    r"""Adam by the largest gradient in place of the mean square, as `torch.optim.Adamax`.

        g ← ∇L + λw
        m ← β₁m + (1 − β₁)g             m̂ = m/(1 − β₁ᵗ)
        u ← max(β₂u, |g| + ε)
        w ← w − α·m̂/u
        eps_outside:   u ← max(β₂u, |g|), w ← w − α·m̂/(u + ε), as Keras
        uncorrected:   m̂ = m, as MLX

    Source: Kingma & Ba (ICLR 2015), algorithm 2, which has no ε.
    """

    lr = Hyper(2e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the largest gradient stays")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to |g|, or to u with eps_outside")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")

    eps_outside = Flag("add ε to u when it divides")
    uncorrected = Flag("leave m uncorrected")

    m = State("mean gradient", role="momentum")
    u = State("largest gradient, which fades")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            corrected_lr=h.lr / (1 - h.beta1**t),
            one_minus_beta1=1 - h.beta1,
            beta2=h.beta2,
            eps=h.eps,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, m, u):
        g = g + s.weight_decay * p
        m = m + s.one_minus_beta1 * (g - m)
        u = maximum(s.beta2 * u, absolute(g) if flags.eps_outside else absolute(g) + s.eps)
        lr = s.lr if flags.uncorrected else s.corrected_lr
        return -lr * (m / (u + s.eps if flags.eps_outside else u)), m, u
