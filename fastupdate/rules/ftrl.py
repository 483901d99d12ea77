"""FTRL-Proximal."""

from fastupdate.rules.adopt import clipped
from fastupdate.rules.rule import NON_NEGATIVE, Flag, Hyper, Interval, State, scalars
from fastupdate.rules.scalar import power, sqrt, where


def root_of(flags, s, n):
    """√n, or another power of n."""
    return power(n, s.power) if flags.by_power else sqrt(n)


class FTRL:
    r"""Follow the regularised leader: weights are worked out anew from sums, and many are exactly 0 with λ₁.

        σ ← (√(n + ∇L²) − √n)/α
        z ← z + ∇L + λw − σw
        n ← n + ∇L²
        w ← −(z − clip(z, ±λ₁))·α/(β + √n + αλ₂)

    Source: McMahan et al., "Ad Click Prediction" (KDD 2013), algorithm 1: nothing of w but what σ has taken into z
    outlasts a step. A learning rate of 0 leaves w as it is.
    `keras.optimizers.Ftrl` is this with initial_accumulator_value=0.1, beta=0 and λ₂ = twice its l2; λ, which n does
    not see, is twice its l2_shrinkage and is not in the paper. Its learning_rate_power, −½ there as here, has n⁻ᵖ take
    the place of √n.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta = Hyper(1.0, NON_NEGATIVE, "β, added to the root")
    l1_strength = Hyper(0.0, NON_NEGATIVE, "λ₁: weights of a smaller |z| are 0")
    l2_strength = Hyper(0.0, NON_NEGATIVE, "λ₂, of the penalty on the leader")
    initial_accumulator_value = Hyper(0.0, NON_NEGATIVE, "what n starts from")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of an L2 penalty that joins z")
    learning_rate_power = Hyper(
        0.0, Interval(-1.0, 0.0), "p, the power of n that rates go by; 0: −½, which is the root"
    )
    own_decay = True

    by_power = Flag("take n to a power that is not the root", when="learning_rate_power")

    n = State("sum of squared gradients", start="initial_accumulator_value")
    z = State("sum of gradients, less what the weights have been pulled by")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            inverse_lr=1 / h.lr if h.lr > 0 else 0,
            beta_and_l2=h.beta + h.lr * h.l2_strength,
            l1=h.l1_strength,
            weight_decay=h.weight_decay,
            power=-h.learning_rate_power if h.learning_rate_power < 0 else 0.5,  # of a group beside others
        )

    @staticmethod
    def update(flags, s, g, p, n, z):
        before = root_of(flags, s, n)
        n = n + g * g
        root = root_of(flags, s, n)
        z = z + (g + s.weight_decay * p - (root - before) * s.inverse_lr * p)
        leader = (clipped(z, s.l1) - z) * s.lr / (root + s.beta_and_l2)
        return where(s.lr > 0.0, leader - p, 0.0 * p), n, z
