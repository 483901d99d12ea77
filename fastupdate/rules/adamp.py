"""AdamP."""

from fastupdate.rules.adam import moments
from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, POSITIVE, Flag, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import absolute, maximum, sqrt, where


def nearness(s, n, along_gradient, squares, weight_squares):
    """√n·|cos| of the angle between a gradient and its n weights."""
    lengths = maximum(sqrt(squares), s.eps) * maximum(sqrt(weight_squares), s.eps)
    return sqrt(n) * (absolute(along_gradient) / lengths)


def radial(s, along_step, weight_squares):
    """How much of the weights is in a step."""
    length = sqrt(weight_squares) + s.eps
    return along_step / (length * length)


def projection(s, n, near_units, near, along, by_unit, axes):
    """q, and what of the weights is taken out of the step: as a whole, or unit by unit."""
    no = 0.0 * n
    matrix = where(axes > 1.0, 1.0 + no, no)
    by_unit = where(near_units > 0.0, no, matrix)
    as_whole = where(near < s.delta, matrix - by_unit, no)
    along = as_whole * along
    return where(by_unit + as_whole > 0.0, s.wd_ratio, 1.0), along, by_unit


def direction(flags, s, g, m, v):
    """The step before projection, but for the correction of m."""
    ahead = s.beta1 * m + s.one_minus_beta1 * g if flags.nesterov else m
    return ahead / (sqrt(v * s.correction2) + s.eps)


class Projected:
    """What AdamP and SGDP sum up: how near to a right angle gradients and weights are, how much of weights is in u."""

    along_gradient = Sum("∇L·w", per=("unit", "tensor"))
    squares = Sum("‖∇L‖²", per=("unit", "tensor"))
    weight_squares = Sum("‖w‖²", per=("unit", "tensor"))
    along_step = Sum("u·w", per=("unit", "tensor"))
    near_units = Sum("more than 0 if a unit has a scale", per="tensor", of="measure_2")

    @staticmethod
    def settle_unit(flags, s, n, along_gradient, squares, weight_squares, along_step, unit_near, unit_along):
        return nearness(s, n, along_gradient, squares, weight_squares), radial(s, along_step, weight_squares)

    @staticmethod
    def settle_tensor(
        flags, s, n, along_gradient, squares, weight_squares, along_step, near, along, by_unit, ratio, axes
    ):
        near = nearness(s, n, along_gradient, squares, weight_squares)
        return near, radial(s, along_step, weight_squares), by_unit, ratio, axes

    @staticmethod
    def settle_tensor_2(flags, s, n, near_units, near, along, by_unit, ratio, axes):
        ratio, along, by_unit = projection(s, n, near_units, near, along, by_unit, axes)
        return near, along, by_unit, ratio, axes


class AdamP(Projected):
    r"""AdamP: Adam without the part of its step along weights whose length means nothing, as `timm.optim.AdamP`.

        m ← β₁m + (1 − β₁)∇L            m̂ = m/(1 − β₁ᵗ)
        v ← β₂v + (1 − β₂)∇L²           v̂ = v/(1 − β₂ᵗ)
        u = m̂/(√v̂ + ε), with nesterov of β₁m + (1 − β₁)∇L in place of m
        u ← u − w·(u·w)/‖w‖², q = wd_ratio, unit by unit, if |cos(∇L, w)| < δ/√n in every one (a slice along the first
            axis, of n elements); or else of the tensor, if it is so there; otherwise, and of vectors, u stays, q = 1
        w ← w − αλqw − αu

    Source: Heo et al. (ICLR 2021), arXiv:2006.08217, algorithm 2.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays")
    eps = Hyper(1e-8, POSITIVE, "ε, added to the root, and to lengths")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by αλq of themselves")
    delta = Hyper(0.1, NON_NEGATIVE, "δ, below which √n·|cos| is that of weights without a scale")
    wd_ratio = Hyper(0.1, NON_NEGATIVE, "q where the step is projected; timm's factory has 0.01")
    decoupled_decay = True
    own_decay = True

    nesterov = Flag("look ahead along the mean gradient")

    m = State("mean gradient", role="momentum")
    v = State("mean squared gradient")
    unit_near = State("√n·|cos| of a unit", per="unit")
    unit_along = State("how much of the weights was in the last step of a unit", per="unit")
    near = State("√n·|cos| of the tensor", per="tensor")
    along = State("how much of the weights was taken out of the last step as a whole", per="tensor")
    by_unit = State("1 if it was taken out unit by unit", per="tensor")
    ratio = State("q in the last step", per="tensor")
    axes = State("how many axes the tensor has", per="tensor", start="ndim")

    @staticmethod
    def prepare(h, t):
        return scalars(
            rate=h.lr / (1 - h.beta1**t),
            beta1=h.beta1,
            one_minus_beta1=1 - h.beta1,
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            correction2=1 / (1 - h.beta2**t),
            eps=h.eps,
            shrink=h.lr * h.weight_decay,
            delta=h.delta,
            wd_ratio=h.wd_ratio,
        )

    @staticmethod
    def measure(flags, s, g, p, m, v, unit_near, unit_along, near, along, by_unit, ratio, axes):
        m, v = moments(s, g, m, v)
        return g * p, g * g, p * p, p * direction(flags, s, g, m, v), m, v

    @staticmethod
    def measure_2(flags, s, g, p, m, v, unit_near, unit_along, near, along, by_unit, ratio, axes):
        return where(unit_near < s.delta, 0.0, 1.0 + unit_near), m, v

    @staticmethod
    def update(flags, s, g, p, m, v, unit_near, unit_along, near, along, by_unit, ratio, axes):
        step = direction(flags, s, g, m, v) - p * where(by_unit > 0.0, unit_along, along)
        return -(s.shrink * ratio * p) - s.rate * step, m, v
