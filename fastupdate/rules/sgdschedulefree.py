"""Schedule-free SGD."""

from fastupdate.rules.rule import NON_NEGATIVE, OPEN_FRACTION, Hyper, State, scalars
from fastupdate.rules.scalar import maximum, where


def weighed(times, weight, weight_sum, most):
    """The share that the newest z has in the average x; the sum of weights and the largest one, brought up to date."""
    most = maximum(most, weight)
    weight_sum = weight_sum + times * most
    return where(weight_sum > 0.0, times * most / weight_sum, 0.0), weight_sum, most


def moved(s, lr, step, p, z, c):
    """The change of y, by a step of z; the new z."""
    change = c * (z - p) - lr * (s.one_minus_beta1 + s.beta1 * c) * step
    z = z - lr * step
    return change, z


def averaged(beta1, y, z):
    """x, the average, of y = βx + (1 − β)z."""
    return y + (1 - 1 / beta1) * (z - y)


def interpolated(beta1, x, z):
    """y."""
    return x + (1 - beta1) * (z - x)


class SGDScheduleFree:
    r"""Descent that needs no schedule, for its iterates are averaged, as `schedulefree.SGDScheduleFree`.

        α_t = α·min(1, t/T)             over T = `warmup_steps`
        c = a_t/(a₁ + … + a_t),         a_t = tʳ·(the largest α so far)ᵖ,  p = `weight_lr_power`
        g = ∇L(y) + λy
        y ← y + c(z − y) − α_t(1 − β(1 − c))g
        z ← z − α_t·g

    Parameters hold y = (1 − β)z + βx, at which gradients are taken, β being `momentum`; `opt.eval()` makes them the
    average x, by which a model is judged, and `opt.train()` makes them y again.

    Source: Defazio et al., "The Road Less Scheduled", arXiv:2405.15682 (2024), and the authors' code, which has
    weights aₜ. The largest αᵖ is kept, not the largest α: change p between steps, and only later weights follow.
    """

    lr = Hyper(1.0, NON_NEGATIVE, "learning rate α")
    momentum = Hyper(0.9, OPEN_FRACTION, "β, how far y is towards the average")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty, at y")
    warmup_steps = Hyper(0.0, NON_NEGATIVE, "T: in how many steps the learning rate rises")
    r = Hyper(0.0, NON_NEGATIVE, "r: later steps weigh by this power of their number")
    weight_lr_power = Hyper(2.0, NON_NEGATIVE, "p: steps weigh by this power of the learning rate")

    z = State("where the steps go", start="p")
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
            beta1=h.momentum,
            one_minus_beta1=1 - h.momentum,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def settle_tensor(flags, s, n, weight_sum, most, c):
        c, weight_sum, most = weighed(s.times, s.weight, weight_sum, most)
        return weight_sum, most, c

    @staticmethod
    def update(flags, s, g, p, z, weight_sum, most, c):
        change, z = moved(s, s.lr, g + s.weight_decay * p, p, z, c)
        return change, z

    @staticmethod
    def evaluated(h, p, z):
        return averaged(h.momentum, p, z)

    @staticmethod
    def trained(h, p, z):
        return interpolated(h.momentum, p, z)
