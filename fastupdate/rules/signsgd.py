"""SignSGD."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, State, scalars
from fastupdate.rules.scalar import sign


class SignSGD:
    r"""The sign of the gradient, or with momentum of its mean (Signum), as `optax.sign_sgd` and pytorch_optimizer.

        g ← ∇L + λw
        m ← μm + (1 − μ)g
        w ← w − α·sign(m)               w ← w − α·sign(g) without momentum

    Source: Bernstein et al. (ICML 2018), algorithms 1 and 2. sign(0) is 0.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    momentum = Hyper(0.0, BELOW_ONE, "μ, how much of the mean stays from step to step; 0: no mean")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")

    with_momentum = Flag("take the sign of the mean", when="momentum")

    m = State("mean gradient", when="with_momentum", role="momentum")

    @staticmethod
    def prepare(h, t):
        return scalars(lr=h.lr, one_minus_momentum=1 - h.momentum, weight_decay=h.weight_decay)

    @staticmethod
    def update(flags, s, g, p, m):
        g = g + s.weight_decay * p
        if flags.with_momentum:
            m = m + s.one_minus_momentum * (g - m)
            g = m
        return -s.lr * sign(g), m
