"""DoWG."""

from fastupdate.rules.rule import NON_NEGATIVE, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import maximum, sqrt


class DoWG:
    r"""DoWG: gradient descent by the distance come so far, which also weights the gradients, as `optax.contrib.dowg`.

        g ← ∇L + λw
        r² ← max(r², ‖w − w₀‖²), over all tensors; at first r₀²
        v ← v + r²·‖g‖²
        w ← w − α·r²/(√v + ε)·g

    Source: Khaled, Mishchenko & Jin, arXiv:2305.16284, algorithm 1; there ε is 0. optax' init_estim_sq_dist is r₀²,
    which without it is ε.
    """

    lr = Hyper(1.0, NON_NEGATIVE, "learning rate α: a factor of the one that is found")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")
    distance_squared = Hyper(1e-4, NON_NEGATIVE, "r₀², the first estimate of the squared distance")
    eps = Hyper(1e-4, NON_NEGATIVE, "ε, added to the root")
    found_rate = True

    p0 = State("the first weights w₀", start="p")
    r_squared = State("the largest squared distance so far", per="list", start="distance_squared")
    v = State("sum of squared gradients, weighted by r²", per="list")
    rate = State("what g was multiplied by in the last step", per="list", remade=True)

    squares = Sum("‖g‖²", per="list")
    way_squares = Sum("‖w − w₀‖²", per="list")

    @staticmethod
    def prepare(h, t):
        return scalars(lr=h.lr, weight_decay=h.weight_decay, eps=h.eps)

    @staticmethod
    def measure(flags, s, g, p, p0, r_squared, v, rate):
        g = g + s.weight_decay * p
        way = p - p0
        return g * g, way * way, p0

    @staticmethod
    def settle_list(flags, s, n, squares, way_squares, r_squared, v, rate):
        r_squared = maximum(r_squared, way_squares)
        v = v + r_squared * squares
        return r_squared, v, r_squared / (sqrt(v) + s.eps)

    @staticmethod
    def update(flags, s, g, p, p0, r_squared, v, rate):
        return -s.lr * (rate * (g + s.weight_decay * p)), p0
