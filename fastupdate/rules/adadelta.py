"""Adadelta."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, State, scalars
from fastupdate.rules.scalar import sqrt


class Adadelta:
    r"""Steps as large as the last ones were, over the size of gradients, as `torch.optim.Adadelta`.

        g ← ∇L + λw
        v ← ρv + (1 − ρ)g²
        Δ ← √(u + ε)/√(v + ε)·g
        u ← ρu + (1 − ρ)Δ²
        w ← w − αΔ

    Source: Zeiler (arXiv:1212.5701), algorithm 1, which has no α. Keras: lr = 0.001, ρ = 0.95, ε = 1e-7.
    """

    lr = Hyper(1.0, NON_NEGATIVE, "learning rate α")
    rho = Hyper(0.9, BELOW_ONE, "ρ, how much of the means stays from step to step")
    eps = Hyper(1e-6, NON_NEGATIVE, "ε, added under both roots")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")

    v = State("mean squared gradient")
    u = State("mean squared step")

    @staticmethod
    def prepare(h, t):
        return scalars(lr=h.lr, rho=h.rho, one_minus_rho=1 - h.rho, eps=h.eps, weight_decay=h.weight_decay)

    @staticmethod
    def update(flags, s, g, p, v, u):
        g = g + s.weight_decay * p
        v = s.rho * v + s.one_minus_rho * (g * g)
        step = sqrt(u + s.eps) / sqrt(v + s.eps) * g
        u = s.rho * u + s.one_minus_rho * (step * step)
        return -s.lr * step, v, u
