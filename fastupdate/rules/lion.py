"""Lion."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, State, scalars
from fastupdate.rules.scalar import sign


class Lion:
    r"""The sign of momentum, as `lion_pytorch.Lion`.

        c = β₁m + (1 − β₁)∇L
        w ← w − α·(sign(c) + λw)
        m ← β₂m + (1 − β₂)∇L

    Source: Chen et al. (NeurIPS 2023), algorithm 2. sign(0) is 0. Decay is 0 unless given; optax has 1e-3.
    DeepSpeed moves by −α on the CPU and by +α on a GPU where c is 0.
    """

    lr = Hyper(1e-4, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient is in the step")
    beta2 = Hyper(0.99, BELOW_ONE, "how much of the mean gradient stays from step to step")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    decoupled_decay = True

    m = State("mean gradient", role="momentum")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            one_minus_beta1=1 - h.beta1,
            one_minus_beta2=1 - h.beta2,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, m):
        c = m + s.one_minus_beta1 * (g - m)
        m = m + s.one_minus_beta2 * (g - m)
        return -s.lr * (sign(c) + s.weight_decay * p), m
