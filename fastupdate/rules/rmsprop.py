"""RMSprop."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, State, scalars
from fastupdate.rules.scalar import positive_part, sqrt


class RMSprop:
    r"""RMSprop: the gradient over its running root mean square, as `torch.optim.RMSprop`.

        g ← ∇L + λw
        v ← αv + (1 − α)g²
        w ← w − γ·g/(√v + ε)
        centered:     ḡ ← αḡ + (1 − α)g, and √(v − ḡ²) in place of √v
        momentum μ:   b ← μb + g/(√v + ε), w ← w − γb
        lr_in_buffer: b ← μb + γg/(√v + ε), w ← w − b, as Keras and optax: the same while γ is constant
        eps_inside:   √(v + ε) in place of √v + ε, as Keras and optax

    Source: Tieleman & Hinton, Lecture 6.5 (2012); centered: Graves, arXiv:1308.0850, equations 38–45.
    Unlike torch, a v − ḡ² that rounding makes negative counts as zero instead of giving NaN.
    """

    lr = Hyper(1e-2, NON_NEGATIVE, "learning rate γ")
    alpha = Hyper(0.99, BELOW_ONE, "how much of the mean squared gradient stays from step to step")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root, or under it with eps_inside")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")
    momentum = Hyper(0.0, NON_NEGATIVE, "μ, how much of the buffer b stays; 0: no buffer")

    centered = Flag("divide by the standard deviation of the gradient")
    with_momentum = Flag("step along the buffer b", when="momentum")
    lr_in_buffer = Flag("have the learning rate of each gradient in the buffer b, which stays as it was")
    eps_inside = Flag("add ε to the mean square, under the root")

    v = State("mean squared gradient")
    g_mean = State("mean gradient ḡ", when="centered")
    b = State("momentum buffer", when="with_momentum", role="momentum")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            alpha=h.alpha,
            one_minus_alpha=1 - h.alpha,
            eps=h.eps,
            weight_decay=h.weight_decay,
            momentum=h.momentum,
        )

    @staticmethod
    def update(flags, s, g, p, v, g_mean, b):
        g = g + s.weight_decay * p
        v = s.alpha * v + s.one_minus_alpha * (g * g)
        variance = v
        if flags.centered:
            g_mean = g_mean + s.one_minus_alpha * (g - g_mean)
            variance = positive_part(v - g_mean * g_mean)  # rounding can take it below zero
        step = g / (sqrt(variance + s.eps) if flags.eps_inside else sqrt(variance) + s.eps)
        if flags.with_momentum:
            b = s.momentum * b + (s.lr * step if flags.lr_in_buffer else step)
            step = b
        return -(step if flags.with_momentum and flags.lr_in_buffer else s.lr * step), v, g_mean, b
