"""QHM."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, State, scalars


class QHM:
    r"""Momentum that mixes the gradient of the step with its mean, as `pytorch_optimizer.QHM`.

        g ← ∇L + λw
        m ← μm + (1 − μ)g
        w ← w − α·((1 − ν)g + νm)

    Source: Ma & Yarats (ICLR 2019), equation 3. The paper recommends ν = 0.7 and μ = 0.999.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    momentum = Hyper(0.0, BELOW_ONE, "μ, how much of the mean gradient stays from step to step")
    nu = Hyper(1.0, NON_NEGATIVE, "ν, the share of the mean gradient in the step")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")

    m = State("mean gradient", role="momentum")

    @staticmethod
    def prepare(h, t):
        return scalars(
            of_m=h.lr * h.nu,
            of_g=h.lr * (1 - h.nu),
            one_minus_momentum=1 - h.momentum,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, m):
        g = g + s.weight_decay * p
        m = m + s.one_minus_momentum * (g - m)
        return -(s.of_m * m + s.of_g * g), m
