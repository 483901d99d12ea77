"""SGD with momentum."""

from fastupdate.rules.rule import FRACTION, NON_NEGATIVE, Flag, Hyper, State, scalars


def stepped(flags, s, g, b):
    """What is stepped along, and the new buffer."""
    if flags.with_momentum:
        b = s.momentum * b + (s.intake if flags.dampen_first else s.first_intake) * g
        g = g + s.momentum * b if flags.nesterov else b
    return g, b


class SGD:
    r"""Stochastic gradient descent with momentum outside the learning rate, as `torch.optim.SGD`.

        g ← ∇L + λw
        b ← μb + (1 − dampening)·g      b ← g in the first step
        w ← w − αb                      w ← w − α(g + μb) with nesterov

    Source: Sutskever, Martens, Dahl & Hinton (ICML 2013), in the form of torch.optim.SGD. Without momentum there is no
    state. MLX dampens the first gradient too: dampen_first. chainer's NesterovAG is classical: `Momentum`.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    momentum = Hyper(0.0, NON_NEGATIVE, "μ, how much of the buffer b stays from step to step; 0: no buffer")
    dampening = Hyper(0.0, FRACTION, "how much of each gradient but the first is kept out of the buffer")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")

    with_momentum = Flag("step along the buffer b", when="momentum")
    nesterov = Flag("step along g + μb; needs momentum > 0 and dampening 0")
    dampen_first = Flag("keep as much of the first gradient out of the buffer as of others")

    b = State("momentum buffer", when="with_momentum", role="momentum")

    @staticmethod
    def check(given):
        momentum, dampening = given["momentum"], given["dampening"]
        without = not callable(momentum) and momentum == 0
        dampened = not callable(dampening) and dampening != 0
        if given["nesterov"] and (without or dampened):
            return "nesterov: expected momentum > 0 and dampening 0, received others"
        return None

    @staticmethod
    def prepare(h, t):
        intake = 1 - h.dampening if h.momentum > 0 else 1.0  # a group without momentum may be beside others
        return scalars(
            lr=h.lr,
            momentum=h.momentum,
            first_intake=1.0 if t == 1 else intake,
            intake=intake,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, b):
        g = g + s.weight_decay * p
        step, b = stepped(flags, s, g, b)
        return -s.lr * step, b
