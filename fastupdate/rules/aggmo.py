"""AggMo."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, State, scalars


class AggMo:
    r"""Aggregated momentum: the mean of two to five velocities of their own dampings, as `pytorch_optimizer.AggMo`.

        g ← ∇L + λw
        vᵢ ← βᵢvᵢ + g,   i = 1, …, K
        w ← w − α·(v₁ + … + v_K)/K

    `betas` are two to five numbers; those that are left out are 0. From the third on, those that are 0 at the end are
    no velocities: a velocity whose β is 0, which is g, stands before the others. Unless it is the second, no state is
    kept of it. One velocity is `fu.SGD`'s.

    Source: Lucas, Sun, Zemel & Grosse (ICLR 2019), arXiv:1804.00325, equation 2, with its K = 3 and a = 0.1, by which
    β = 0, 0.9, 0.99.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.0, BELOW_ONE, "how much of the first velocity stays from step to step; 0: it is the gradient")
    beta2 = Hyper(0.9, BELOW_ONE, "how much of the second velocity stays")
    beta3 = Hyper(0.99, BELOW_ONE, "how much of the third velocity stays")
    beta4 = Hyper(0.0, BELOW_ONE, "how much of the fourth velocity stays")
    beta5 = Hyper(0.0, BELOW_ONE, "how much of the fifth velocity stays")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")

    with_v1 = Flag("keep the first velocity", when="beta1")
    with_v3 = Flag("keep the third velocity", when="beta3")
    with_v4 = Flag("keep the fourth velocity", when="beta4")
    with_v5 = Flag("keep the fifth velocity", when="beta5")

    v1 = State("first velocity", when="with_v1")
    v2 = State("second velocity")
    v3 = State("third velocity", when="with_v3", role="momentum")
    v4 = State("fourth velocity", when="with_v4")
    v5 = State("fifth velocity", when="with_v5")

    @staticmethod
    def prepare(h, t):
        of_three = 3.0 if h.beta3 > 0 else 2.0
        of_four = 4.0 if h.beta4 > 0 else of_three
        count = 5.0 if h.beta5 > 0 else of_four
        return scalars(
            lr=h.lr / count,
            beta1=h.beta1,
            beta2=h.beta2,
            beta3=h.beta3,
            beta4=h.beta4,
            beta5=h.beta5,
            third=1.0 if count > 2 else 0.0,  # whether there is one
            fourth=1.0 if count > 3 else 0.0,
            fifth=1.0 if count > 4 else 0.0,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, v1, v2, v3, v4, v5):
        g = g + s.weight_decay * p
        v1 = s.beta1 * v1 + g if flags.with_v1 else g
        v2 = s.beta2 * v2 + g
        total = v1 + v2
        if flags.with_v3 or flags.with_v4 or flags.with_v5:
            v3 = s.beta3 * v3 + g if flags.with_v3 else g
            total = total + s.third * v3
        if flags.with_v4 or flags.with_v5:
            v4 = s.beta4 * v4 + g if flags.with_v4 else g
            total = total + s.fourth * v4
        if flags.with_v5:
            v5 = s.beta5 * v5 + g
            total = total + s.fifth * v5
        return -s.lr * total, v1, v2, v3, v4, v5
