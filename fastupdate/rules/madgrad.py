"""MADGRAD."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, State, scalars
from fastupdate.rules.scalar import cbrt, sqrt, where


class MADGRAD:
    r"""MADGRAD: dual averaging from the first weights, over the cube root of squares, as `timm.optim.MADGRAD`.

        g ← ∇L + λw,   c = (α + ε)·√t
        s ← s + cg
        v ← v + cg²
        z = w₀ − s/(∛v + ε)
        w ← μw + (1 − μ)z

    Source: Defazio & Jelassi, arXiv:2101.11075 (2021), algorithm 1, which has no ε in c: that is the authors' code,
    from which timm, optax and pytorch_optimizer have it. With a learning rate of 0 nothing is added to s and v, as in
    pytorch_optimizer; the others add ε√t.
    timm shrinks weights by αλ before the step with decoupled_decay: that is decay="decoupled" here.
    """

    lr = Hyper(1e-2, NON_NEGATIVE, "learning rate α")
    momentum = Hyper(0.9, BELOW_ONE, "μ, how much of the weight stays from step to step")
    eps = Hyper(1e-6, NON_NEGATIVE, "ε, added to the root and to the learning rate")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")

    total = State("sum s of gradients", role="momentum")
    v = State("sum of squared gradients")
    w0 = State("the first weights w₀", start="p")

    @staticmethod
    def prepare(h, t):
        return scalars(
            weight=(h.lr + h.eps if h.lr > 0 else 0) * sqrt(t),
            eps=h.eps,
            weight_decay=h.weight_decay,
            one_minus_momentum=1 - h.momentum,
        )

    @staticmethod
    def update(flags, s, g, p, total, v, w0):
        g = g + s.weight_decay * p
        total = total + s.weight * g
        v = v + s.weight * (g * g)
        root = cbrt(v) + s.eps
        step = total / where(root > 0.0, root, 1.0 + root)
        return s.one_minus_momentum * ((w0 - p) - step), total, v, w0
