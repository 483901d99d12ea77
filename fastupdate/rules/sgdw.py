"""SGDW."""

from fastupdate.rules.rule import NON_NEGATIVE, Hyper
from fastupdate.rules.sgd import SGD


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
        if flags.with_momentum:
            b = s.momentum * b + s.intake * g
            g = g + s.momentum * b if flags.nesterov else b
        return -s.lr * (g + s.weight_decay * p), b
