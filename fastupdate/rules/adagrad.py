"""Adagrad."""

from fastupdate.rules.rule import NON_NEGATIVE, Flag, Hyper, State, scalars
from fastupdate.rules.scalar import sqrt


class Adagrad:
    r"""The gradient over the root of all squares so far, as `torch.optim.Adagrad`.

        g ← ∇L + λw
        G ← G + g²
        w ← w − α/(1 + (t − 1)·lr_decay)·g/(√G + ε)
        eps_inside:   √(G + ε) in place of √G + ε, as Keras and optax

    Source: Duchi, Hazan & Singer (JMLR 2011). torch starts from G = 0 with ε = 1e-10; optax and Keras from 0.1 with
    ε = 1e-7 inside: `initial_accumulator_value=0.1, eps=1e-7, eps_inside=True`.
    A fault of some versions of DeepSpeed is no argument here: elements left over by its vectors had λw in G alone.
    """

    lr = Hyper(1e-2, NON_NEGATIVE, "learning rate α")
    lr_decay = Hyper(0.0, NON_NEGATIVE, "how fast the learning rate falls")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")
    initial_accumulator_value = Hyper(0.0, NON_NEGATIVE, "what G starts from")
    eps = Hyper(1e-10, NON_NEGATIVE, "ε, added to the root, or under it with eps_inside")

    eps_inside = Flag("add ε to the sum of squares, under the root")

    sum = State("sum of squared gradients G", start="initial_accumulator_value")

    @staticmethod
    def prepare(h, t):
        return scalars(lr=h.lr / (1 + (t - 1) * h.lr_decay), eps=h.eps, weight_decay=h.weight_decay)

    @staticmethod
    def update(flags, s, g, p, sum):
        g = g + s.weight_decay * p
        sum = sum + g * g
        root = sqrt(sum + s.eps) if flags.eps_inside else sqrt(sum) + s.eps
        return -s.lr * (g / root), sum
