"""Classical momentum."""

from fastupdate.rules.rule import NON_NEGATIVE, Flag, Hyper, State, scalars


class Momentum:
    r"""Classical momentum: the learning rate is inside the velocity, as in Keras' SGD.

        g ← ∇L + λw
        v ← βv − αg
        w ← w + v                       w ← w + βv − αg with nesterov
                                        w ← w + β²v − (1 + β)αg with twice_ahead, as chainer's NesterovAG

    Equal to `SGD` only while the learning rate stays constant: by gradients of 1 from w = 1, with β = 0.9 and learning
    rates of 0.1, 0.1, 0.01, 0.01, it goes to 0.3561 and `SGD` to 0.6485.

    Source: Polyak (1964); Sutskever et al. (ICML 2013).
    """

    lr = Hyper(1e-2, NON_NEGATIVE, "learning rate α")
    beta = Hyper(0.9, NON_NEGATIVE, "how much of the velocity stays from step to step")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")

    nesterov = Flag("step from where the velocity leads")
    twice_ahead = Flag("look ahead along a velocity that has done so already, as chainer; needs nesterov")

    v = State("velocity", role="velocity")

    @staticmethod
    def check(given):
        if given["twice_ahead"] and not given["nesterov"]:
            return "twice_ahead: expected nesterov=True beside it, received False"
        return None

    @staticmethod
    def prepare(h, t):
        return scalars(lr=h.lr, beta=h.beta, beta_squared=h.beta * h.beta, weight_decay=h.weight_decay)

    @staticmethod
    def update(flags, s, g, p, v):
        g = g + s.weight_decay * p
        v = s.beta * v - s.lr * g
        step = s.beta * v - s.lr * g if flags.nesterov else v
        if flags.twice_ahead:
            step = s.beta_squared * v - s.lr * g - s.beta * (s.lr * g)
        return step, v
