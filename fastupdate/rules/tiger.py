"""Tiger."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, State, scalars
from fastupdate.rules.scalar import sign


class Tiger:
    r"""The sign of the mean gradient with decoupled decay, as `pytorch_optimizer.Tiger`.

        m ← βm + (1 − β)∇L
        w ← w − α·(sign(m) + λw)

    Source: Su, "Tiger: A Tight-fisted Optimizer" (2023, code). Lion with β₁ = β₂.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta = Hyper(0.965, BELOW_ONE, "how much of the mean gradient stays from step to step")
    weight_decay = Hyper(0.01, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    decoupled_decay = True

    m = State("mean gradient", role="momentum")

    @staticmethod
    def prepare(h, t):
        return scalars(lr=h.lr, one_minus_beta=1 - h.beta, weight_decay=h.weight_decay)

    @staticmethod
    def update(flags, s, g, p, m):
        m = m + s.one_minus_beta * (g - m)
        return -s.lr * (sign(m) + s.weight_decay * p), m
