"""Schedule-free RAdam."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, OPEN_FRACTION, Flag, Hyper, State, scalars
from fastupdate.rules.scalar import rectification, sqrt, where
from fastupdate.rules.sgdschedulefree import averaged, interpolated, moved, weighed


class RAdamScheduleFree:
    r"""RAdam that needs no schedule and no warm-up, as `schedulefree.RAdamScheduleFree`.

        v ← β₂v + (1 − β₂)∇L(y)²        v̂ = v/(1 − β₂ᵗ)
        ρ = ρ∞ − 2tβ₂ᵗ/(1 − β₂ᵗ),       ρ∞ = 2/(1 − β₂) − 1
        d = ∇L(y)/(√v̂ + ε) + λy,       α_t = αr  where ρ > 4, with r² = (ρ − 4)(ρ − 2)ρ∞ / ((ρ∞ − 4)(ρ∞ − 2)ρ)
        d = ∇L(y) + λy,                 α_t = 0   elsewhere; α with sgd_phase
        c = a_t/(a₁ + … + a_t),         a_t = tᵏ·(the largest α_t so far)ᵖ,  k = `r`, p = `weight_lr_power`
        y ← y + c(z − y) − α_t(1 − β₁(1 − c))d
        z ← z − α_t·d

    Parameters hold y = (1 − β₁)z + β₁x, at which gradients are taken; `opt.eval()` makes them the average x, by which a
    model is judged, and `opt.train()` makes them y again.

    Source: Defazio et al., "The Road Less Scheduled", arXiv:2405.15682 (2024), and the authors' code, whose
    `silent_sgd_phase=False` is `sgd_phase=True`; Liu et al. (ICLR 2020), algorithm 2. The threshold is 4, as in that
    paper; `fu.RAdam` has torch's 5.
    """

    lr = Hyper(2.5e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, OPEN_FRACTION, "how far y is towards the average")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays from step to step")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, at y: z shrinks by αλ of it")
    r = Hyper(0.0, NON_NEGATIVE, "later steps weigh by this power of their number")
    weight_lr_power = Hyper(2.0, NON_NEGATIVE, "p: steps weigh by this power of the learning rate")
    decoupled_decay = True
    own_decay = True

    sgd_phase = Flag("take the first steps by the plain gradient, instead of none")

    z = State("where the steps go", start="p")
    v = State("mean squared gradient")
    weight_sum = State("the sum of weights", per="tensor")
    most = State("the largest αᵖ so far", per="tensor")
    c = State("the share of the newest z in x", per="tensor", lasts=False)

    @staticmethod
    def prepare(h, t):
        power = h.beta2**t
        rectified = sqrt(rectification(h.beta2, power, t, 4.0))
        lr = h.lr * rectified
        first_lr = lr if rectified > 0 else h.lr
        return scalars(
            lr=lr,
            first_lr=first_lr,
            weight=lr**h.weight_lr_power,
            first_weight=first_lr**h.weight_lr_power,
            times=t**h.r,
            rectified=rectified,
            beta1=h.beta1,
            one_minus_beta1=1 - h.beta1,
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            correction2=1 / (1 - power),
            eps=h.eps,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def settle_tensor(flags, s, n, weight_sum, most, c):
        weight = s.first_weight if flags.sgd_phase else s.weight
        c, weight_sum, most = weighed(s.times, weight, weight_sum, most)
        return weight_sum, most, c

    @staticmethod
    def update(flags, s, g, p, z, v, weight_sum, most, c):
        v = s.beta2 * v + s.one_minus_beta2 * (g * g)
        step = where(s.rectified > 0.0, g / (sqrt(v * s.correction2) + s.eps), g) + s.weight_decay * p
        change, z = moved(s, s.first_lr if flags.sgd_phase else s.lr, step, p, z, c)
        return change, z, v

    @staticmethod
    def evaluated(h, p, z, v):
        return averaged(h.beta1, p, z)

    @staticmethod
    def trained(h, p, z, v):
        return interpolated(h.beta1, p, z)
