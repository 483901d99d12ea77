"""Lion."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, Interval, State, scalars
from fastupdate.rules.scalar import sign, where


class Lion:
    r"""The sign of momentum, as `lion_pytorch.Lion`.

        c = β₁m + (1 − β₁)∇L
        w ← w − α·(sign(c) + λw)
        m ← β₂m + (1 − β₂)∇L

    Source: Chen et al. (NeurIPS 2023), algorithm 2. Decay is 0 unless given; optax has 1e-3. sign(0) is 0; in DeepSpeed
    weights for which there is no gradient move too: sign_of_zero=1 is what it does on a CPU, −1 on a GPU.
    """

    lr = Hyper(1e-4, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient is in the step")
    beta2 = Hyper(0.99, BELOW_ONE, "how much of the mean gradient stays from step to step")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    sign_of_zero = Hyper(0.0, Interval(-1.0, 1.0), "what is taken for the sign of 0")
    decoupled_decay = True

    moves_at_zero = Flag("where c is 0, the sign is what it was said to be", when="sign_of_zero")

    m = State("mean gradient", role="momentum")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            one_minus_beta1=1 - h.beta1,
            one_minus_beta2=1 - h.beta2,
            weight_decay=h.weight_decay,
            sign_of_zero=h.sign_of_zero,
        )

    @staticmethod
    def update(flags, s, g, p, m):
        c = m + s.one_minus_beta1 * (g - m)
        m = m + s.one_minus_beta2 * (g - m)
        step = sign(c)
        if flags.moves_at_zero:
            step = where(step * step > 0.0, step, s.sign_of_zero)
        return -s.lr * (step + s.weight_decay * p), m
