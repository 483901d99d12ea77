"""Schedule-free AdamW."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, OPEN_FRACTION, Hyper, State, scalars
from fastupdate.rules.scalar import sqrt
from fastupdate.rules.sgdschedulefree import averaged, interpolated, moved, weighed


class AdamWScheduleFree:
    r"""AdamW that needs no schedule, for its iterates are averaged, as `schedulefree.AdamWScheduleFree`.

        α_t = α·min(1, t/T)             over T = `warmup_steps`
        c = a_t/(a₁ + … + a_t),         a_t = tʳ·(the largest α so far)ᵖ,  p = `weight_lr_power`
        v ← β₂v + (1 − β₂)∇L(y)²        v̂ = v/(1 − β₂ᵗ)
        d = ∇L(y)/(√v̂ + ε) + λy
        y ← y + c(z − y) − α_t(1 − β₁(1 − c))d
        z ← z − α_t·d

    Parameters hold y = (1 − β₁)z + β₁x, at which gradients are taken; `opt.eval()` makes them the average x, by which a
    model is judged, and `opt.train()` makes them y again.

    Source: Defazio et al., "The Road Less Scheduled", arXiv:2405.15682 (2024), algorithm 1, and the authors' code:
    weights by the largest α so far, not by α_t, and α_t without √(1 − β₂ᵗ), which is in v̂.
    """

    lr = Hyper(2.5e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, OPEN_FRACTION, "how far y is towards the average")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays from step to step")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, at y: z shrinks by αλ of it")
    warmup_steps = Hyper(0.0, NON_NEGATIVE, "T: in how many steps the learning rate rises")
    r = Hyper(0.0, NON_NEGATIVE, "r: later steps weigh by this power of their number")
    weight_lr_power = Hyper(2.0, NON_NEGATIVE, "p: steps weigh by this power of the learning rate")
    decoupled_decay = True
    own_decay = True

    z = State("where the steps go", start="p")
    v = State("mean squared gradient")
    weight_sum = State("the sum of weights", per="tensor")
    most = State("the largest αᵖ so far", per="tensor")
    c = State("the share of the newest z in x", per="tensor", lasts=False)

    @staticmethod
    def prepare(h, t):
        lr = h.lr * (t / h.warmup_steps if t < h.warmup_steps else 1.0)
        return scalars(
            lr=lr,
            weight=lr**h.weight_lr_power,
            times=t**h.r,
            beta1=h.beta1,
            one_minus_beta1=1 - h.beta1,
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            correction2=1 / (1 - h.beta2**t),
            eps=h.eps,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def settle_tensor(flags, s, n, weight_sum, most, c):
        c, weight_sum, most = weighed(s.times, s.weight, weight_sum, most)
        return weight_sum, most, c

    @staticmethod
    def update(flags, s, g, p, z, v, weight_sum, most, c):
        v = s.beta2 * v + s.one_minus_beta2 * (g * g)
        step = g / (sqrt(v * s.correction2) + s.eps) + s.weight_decay * p
        change, z = moved(s, s.lr, step, p, z, c)
        return change, z, v

    @staticmethod
    def evaluated(h, p, z, v):
        return averaged(h.beta1, p, z)

    @staticmethod
    def trained(h, p, z, v):
        return interpolated(h.beta1, p, z)
