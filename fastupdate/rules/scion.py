"""Scion."""

from fastupdate.rules.muon import orthogonal
from fastupdate.rules.rule import BELOW_ONE, COUNT_OR_ZERO, NON_NEGATIVE, Flag, Hyper, State, scalars


class Scion:
    r"""Scion with the spectral norm, for matrices: steps of fixed length in it, as `pytorch_optimizer.SCION`.

        m ← μm + (1 − μ)∇L
        o = the nearest orthogonal matrix to m, by `ns_steps` Newton–Schulz iterations
        w ← w − αλw − α·ρ·√(rows/columns)·o     max(1, √(rows/columns)) with max_scale

    ρ is `scale`. `weight_decay=1` keeps weights within a ball of radius ρ, which is `constraint=True` of
    pytorch_optimizer. Its `momentum` is 1 − μ. Layers under other norms are given rules of theirs by `fu.Partition` or
    `others`: those under the norm of signs go by `fu.SignSGD`.

    Source: Pethick et al., arXiv:2502.07529 (2025), algorithms 1 (unconstrained) and 2 (λ = 1). The matrix products are
    those of the array library, in the parameter's type (pytorch_optimizer: bfloat16), and their bits are its own.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    momentum = Hyper(0.9, BELOW_ONE, "μ, how much of the mean gradient stays from step to step")
    scale = Hyper(1.0, NON_NEGATIVE, "ρ, the radius")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    decoupled_decay = True

    max_scale = Flag("scale wide matrices by 1", of="matrix")
    ns_steps = Hyper(5, COUNT_OR_ZERO, "how many Newton–Schulz iterations")

    m = State("mean gradient", role="momentum")
    o = State("the direction", lasts=False)

    @staticmethod
    def prepare(h, t):
        return scalars(
            step=h.lr * h.scale,
            one_minus_momentum=1 - h.momentum,
            shrink=h.lr * h.weight_decay,
            ns_steps=h.ns_steps,
        )

    @staticmethod
    def measure(flags, s, g, p, m, o):
        return m, m + s.one_minus_momentum * (g - m)

    @staticmethod
    def matrix(flags, s, o):
        rows, columns = o.shape
        ratio = (rows / columns) ** 0.5
        return (max(1.0, ratio) if flags.max_scale else ratio) * orthogonal(o, s.ns_steps)

    @staticmethod
    def update(flags, s, g, p, m, o):
        m = m + s.one_minus_momentum * (g - m)
        return -(s.shrink * p) - s.step * o, m, o
