"""SGDW."""

from fastupdate.rules.rule import NON_NEGATIVE, Hyper
from fastupdate.rules.sgd import SGD, stepped


class SGDW(SGD):
    r"""SGD with decoupled weight decay, as `timm.optim.SGDW`.

        b ← μb + (1 − dampening)·∇L     b ← ∇L in the first step
        w ← w − α(b + λw)               w ← w − α(∇L + μb + λw) with nesterov

    Source: Loshchilov & Hutter (ICLR 2019), algorithm 1, with the decay times the learning rate. timm's factory turns
    nesterov on; its class, as here, does not.
    """

    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    decoupled_decay = True

    @staticmethod
    def update(flags, s, g, p, b):
        step, b = stepped(flags, s, g, b)
        return -s.lr * (step + s.weight_decay * p), b
