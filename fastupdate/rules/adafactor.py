"""Adafactor."""

from fastupdate.rules.rule import (
    BELOW_ONE,
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    SWITCH,
    Flag,
    Hyper,
    Interval,
    State,
    Sum,
    scalars,
)
from fastupdate.rules.scalar import maximum, sqrt, where


def squared(s, g, v):
    """The mean squared gradient of an element, brought up to date."""
    return v + s.share * (g * g + s.eps_added - v)


def direction(flags, s, g, v, row, column, mean, axes):
    """g/√v, where v is known by its rows and columns, unless it is kept; a vector's v is what its rows hold."""
    known = where(axes > 1.0, row * column / maximum(mean, s.eps1), row)
    if flags.unfactored:
        known = squared(s, g, v)
    return g / sqrt(maximum(known, s.eps1_squared))


class Adafactor:
    r"""Adafactor: divides by a root mean square of which only rows and columns are kept, as `torch.optim.Adafactor`.

        r ← (1 − b)r + b·mean of ∇L² in the row       c likewise in the column, of the last two axes;  b = t^decay
        v = r·c / max(mean of r, ε₁)                  (of a vector, v = r, the row being an element)
        u = ∇L/√max(v, ε₁²)
        w ← w − αλw − max(ε₂, rms w)·min(α, 1/√t)/max(1, rms u / d)·u

    Elsewhere ε is added to ∇L², which is eps=(0, ε₂) and eps_added=ε (1e-30 there), and there is more to choose:

        unfactored            v ← (1 − b)v + b∇L² of each element
        relative_step=False   α in place of min(α, 1/√t)
        scale_parameter=False 1 in place of max(ε₂, rms w)
        beta1                 m ← β₁m + (1 − β₁)·the step, and w ← w − αλw − m
        lr_outside=True       with beta1: m of u/max(1, rms u / d), and what u was multiplied by comes before m
        scaled_decay=True     λ of that, max(ε₂, rms w)·min(α, 1/√t), in place of αλ
        unscaled_decay=True   λ in place of αλ
        beta2_cap             b is at least 1 − beta2_cap

    transformers: scaled_decay, its warmup_init is lr=lambda t: 1e-6 * (t + 1). optax: unscaled_decay without
    relative_step, its momentum is beta1; unfactored where a side is shorter than 128, by a `fu.Partition`. timm's
    AdafactorBigVision: lr_outside without relative_step and scale_parameter, lr=1, d=1e30, beta1=0.9, beta2_cap=0.999,
    unfactored below 16, its unscaled_wd is unscaled_decay. Both take the two longest axes of more than two. Keras: the
    defaults, and decay="decoupled", for it takes the rms of w after it has decayed.

    Source: Shazeer & Stern (ICML 2018), algorithms 4 and 5. ε₁ is float32's spacing; fu.torch takes torch's None; less
    than 1e-37 counts as that, and ε₁² likewise. The mean of r is kept as a state of its own, so that it may differ from
    the mean of the r's by a rounding.
    """

    lr = Hyper(1e-2, NON_NEGATIVE, "largest relative step α")
    beta2_decay = Hyper(-0.8, Interval(high=0.0), "the new gradient's share b is t to this power")
    eps1 = Hyper(1.1920928955078125e-07, NON_NEGATIVE, "ε₁, the least mean square of a matrix, and root of the least v")
    eps2 = Hyper(1e-3, NON_NEGATIVE, "ε₂, the least root mean square of weights that steps are relative to")
    d = Hyper(1.0, POSITIVE, "the root mean square that u is clipped to")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    beta1 = Hyper(0.0, BELOW_ONE, "β₁, how much of a mean step stays from step to step; 0 keeps none")
    relative_step = Hyper(1.0, SWITCH, "whether α is at most 1/√t")
    scale_parameter = Hyper(1.0, SWITCH, "whether steps are relative to the root mean square of weights")
    scaled_decay = Hyper(0.0, SWITCH, "whether weights shrink by λ of the whole step size")
    unscaled_decay = Hyper(0.0, SWITCH, "whether weights shrink by λ of themselves")
    lr_outside = Hyper(0.0, SWITCH, "whether the mean is of directions, and multiplied by the step size")
    beta2_cap = Hyper(1.0, FRACTION, "how much of the mean squares stays at most")
    eps_added = Hyper(0.0, NON_NEGATIVE, "what is added to squared gradients")
    decoupled_decay = True
    own_decay = True

    with_momentum = Flag("keep a mean step", when="beta1")
    unfactored = Flag("keep v of each element, instead of rows and columns")

    m = State("mean step", when="with_momentum", role="momentum")
    v = State("mean squared gradient", when="unfactored")
    row = State("mean squared gradient of a row", per="row")
    column = State("mean squared gradient of a column", per="column")
    mean = State("mean squared gradient of a matrix", per="matrix")
    length = State("what the direction was multiplied by in the last step", per="tensor")
    rate = State("what the mean is multiplied by", per="tensor", lasts=False)
    shrink = State("how much of themselves weights lose", per="tensor", lasts=False)
    axes = State("how many axes the tensor has", per="tensor", start="ndim")

    squares = Sum("∇L²", per=("row", "column", "matrix"))
    step_squares = Sum("u²", per="tensor", of="measure_2")
    weight_squares = Sum("w²", per="tensor", of="measure_2")

    @staticmethod
    def prepare(h, t):
        share = t**h.beta2_decay
        least = 1 - h.beta2_cap
        limit = h.lr if h.lr < 1 / sqrt(t) else 1 / sqrt(t)
        decay = (h.unscaled_decay + (1 - h.unscaled_decay) * h.lr) * h.weight_decay
        return scalars(
            share=share if share > least else least,
            lr=(1 - h.relative_step) * h.lr + h.relative_step * limit,
            fixed_shrink=(1 - h.scaled_decay) * decay,
            scaled_shrink=h.scaled_decay * h.weight_decay,
            scaled=h.scale_parameter,
            unscaled=1 - h.scale_parameter,
            outside=h.lr_outside,
            inside=1 - h.lr_outside,
            one_minus_beta1=1 - h.beta1,
            eps1=h.eps1 if h.eps1 > 1e-37 else 1e-37,
            eps1_squared=h.eps1 * h.eps1 if h.eps1 * h.eps1 > 1e-37 else 1e-37,
            eps2=h.eps2,
            eps_added=h.eps_added,
            d=h.d,
        )

    @staticmethod
    def measure(flags, s, g, p, m, v, row, column, mean, length, rate, shrink, axes):
        return g * g + s.eps_added, m, v

    @staticmethod
    def settle_row(flags, s, n, squares, row):
        return row + s.share * (squares / n - row)

    @staticmethod
    def settle_column(flags, s, n, squares, column):
        return column + s.share * (squares / n - column)

    @staticmethod
    def settle_matrix(flags, s, n, squares, mean):
        return mean + s.share * (squares / n - mean)

    @staticmethod
    def measure_2(flags, s, g, p, m, v, row, column, mean, length, rate, shrink, axes):
        u = direction(flags, s, g, v, row, column, mean, axes)
        return u * u, p * p, m, v

    @staticmethod
    def settle_tensor(flags, s, n, step_squares, weight_squares, length, rate, shrink, axes):
        size = (s.scaled * maximum(s.eps2, sqrt(weight_squares / n)) + s.unscaled) * s.lr
        inner = s.inside * size + s.outside if flags.with_momentum else size
        length = inner / maximum(1.0, sqrt(step_squares / n) / s.d)
        return length, s.outside * size + s.inside, s.fixed_shrink + s.scaled_shrink * size, axes

    @staticmethod
    def update(flags, s, g, p, m, v, row, column, mean, length, rate, shrink, axes):
        step = length * direction(flags, s, g, v, row, column, mean, axes)
        if flags.unfactored:
            v = squared(s, g, v)
        if flags.with_momentum:
            m = m + s.one_minus_beta1 * (step - m)
            step = rate * m
        return -(shrink * p) - step, m, v
