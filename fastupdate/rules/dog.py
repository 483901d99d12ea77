"""DoG."""

from fastupdate.rules.rule import NON_NEGATIVE, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import maximum, sqrt, where


class DoG:
    r"""DoG: gradient descent by the distance come so far, over the length of all gradients, as `optax.contrib.dog`.

        g ← ∇L + λw
        r ← max(r, ‖w − w₀‖), over all tensors; at first α₀·(1 + ‖w₀‖)
        G ← G + ‖g‖²
        w ← w − α·r/√(G + ε)·g

    r is `distance` at first, if that is not 0; with first_rate, r is 0 at first and r/√(G + ε) is first_rate in the
    first step.

    Source: Ivgi, Hinder & Carmon, arXiv:2302.12022, equation 2 and section 3. The authors advise a mean of the weights,
    such as ema_decay.
    """

    lr = Hyper(1.0, NON_NEGATIVE, "learning rate α: a factor of the one that is found")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")
    relative = Hyper(1e-6, NON_NEGATIVE, "α₀, the first r by the length of the weights; 1e-4 with batch normalisation")
    distance = Hyper(0.0, NON_NEGATIVE, "the first r, if not 0")
    first_rate = Hyper(0.0, NON_NEGATIVE, "what g is multiplied by in the first step, if not 0")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to G")
    found_rate = True

    p0 = State("the first weights w₀", start="p")
    r = State("the largest distance so far", per="list")
    squares = State("G", per="list")
    rate = State("what g was multiplied by in the last step", per="list", remade=True)

    new_squares = Sum("‖g‖²", per="list")
    way_squares = Sum("‖w − w₀‖²", per="list")
    start_squares = Sum("‖w₀‖²", per="list")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            weight_decay=h.weight_decay,
            relative=h.relative if h.distance + h.first_rate <= 0 else 0.0,
            distance=h.distance,
            first_rate=h.first_rate if t <= 1 else 0.0,
            eps=h.eps,
        )

    @staticmethod
    def measure(flags, s, g, p, p0, r, squares, rate):
        g = g + s.weight_decay * p
        way = p - p0
        return g * g, way * way, p0 * p0, p0

    @staticmethod
    def settle_list(flags, s, n, new_squares, way_squares, start_squares, r, squares, rate):
        first = maximum(s.distance, s.relative * (1.0 + sqrt(start_squares)))
        r = maximum(maximum(r, first), sqrt(way_squares))
        squares = squares + new_squares
        return r, squares, where(s.first_rate > 0.0, s.first_rate, r / sqrt(squares + s.eps))

    @staticmethod
    def update(flags, s, g, p, p0, r, squares, rate):
        return -s.lr * (rate * (g + s.weight_decay * p)), p0
