"""AggMo."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, State, scalars


class AggMo:
    r"""Aggregated momentum: the mean of three velocities with dampings of their own, as `pytorch_optimizer.AggMo`.

        g ← ∇L + λw
        vᵢ ← βᵢvᵢ + g,   i = 1, 2, 3
        w ← w − α·(v₁ + v₂ + v₃)/3

    Source: Lucas, Sun, Zemel & Grosse (ICLR 2019), arXiv:1804.00325, equation 2, with its K = 3 and a = 0.1, by which
    β = 0, 0.9, 0.99. The number of velocities is fixed; the first keeps no state while β₁ is 0, for it is g.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.0, BELOW_ONE, "how much of the first velocity stays from step to step; 0: it is the gradient")
    beta2 = Hyper(0.9, BELOW_ONE, "how much of the second velocity stays")
    beta3 = Hyper(0.99, BELOW_ONE, "how much of the third velocity stays")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")

    with_v1 = Flag("keep the first velocity", when="beta1")

    v1 = State("first velocity", when="with_v1")
    v2 = State("second velocity")
    v3 = State("third velocity", role="momentum")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr / 3,
            beta1=h.beta1,
            beta2=h.beta2,
            beta3=h.beta3,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, v1, v2, v3):
        g = g + s.weight_decay * p
        v1 = s.beta1 * v1 + g if flags.with_v1 else g
        v2 = s.beta2 * v2 + g
        v3 = s.beta3 * v3 + g
        return -s.lr * (v1 + v2 + v3), v1, v2, v3
