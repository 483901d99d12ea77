"""Adafactor."""

from fastupdate.rules.rule import NON_NEGATIVE, POSITIVE, Hyper, Interval, State, Sum, scalars
from fastupdate.rules.scalar import maximum, sqrt, where


def direction(s, g, row, column, mean, axes):
    """g/√v, where v is known by its rows and columns; a vector's v is what its rows hold."""
    v = where(axes > 1.0, row * column / maximum(mean, s.eps1), row)
    return g / sqrt(maximum(v, s.eps1_squared))


class Adafactor:
    r"""Adafactor: divides by a root mean square of which only rows and columns are kept, as `torch.optim.Adafactor`.

        r ← (1 − b)r + b·mean of ∇L² in the row       c likewise in the column, of the last two axes;  b = t^decay
        v = r·c / max(mean of r, ε₁)                  (of a vector, v = r, the row being an element)
        u = ∇L/√max(v, ε₁²)
        w ← w − αλw − max(ε₂, rms w)·min(α, 1/√t)/max(1, rms u / d)·u

    Source: Shazeer & Stern (ICML 2018), algorithms 4 and 5. ε₁ is float32's spacing; fu.torch takes torch's None. The
    mean of r is kept as a state of its own, so that it may differ from the mean of the r's by a rounding.
    Elsewhere ε₁ = 1e-30 is added to ∇L² instead: that is eps=(1e-30, …), unless all gradients are as small. Keras is
    this otherwise, but takes the rms of w after it has decayed: decay="decoupled" does. Hugging Face decays by λ times
    its whole step size, max(ε₂, rms w)·min(0.01, 1/√t) or that of a given α. optax takes α as it is, decays by λ
    without α and keeps a whole v where a side is shorter than 128; timm's AdafactorBigVision does so below 16, with
    momentum, no d, no rms w.
    """

    lr = Hyper(1e-2, NON_NEGATIVE, "largest relative step α")
    beta2_decay = Hyper(-0.8, Interval(high=0.0), "the new gradient's share b is t to this power")
    eps1 = Hyper(1.1920928955078125e-07, NON_NEGATIVE, "ε₁, the least mean square of a matrix, and root of the least v")
    eps2 = Hyper(1e-3, NON_NEGATIVE, "ε₂, the least root mean square of weights that steps are relative to")
    d = Hyper(1.0, POSITIVE, "the root mean square that u is clipped to")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    decoupled_decay = True
    own_decay = True

    row = State("mean squared gradient of a row", per="row")
    column = State("mean squared gradient of a column", per="column")
    mean = State("mean squared gradient of a matrix", per="matrix")
    length = State("what the direction was multiplied by in the last step", per="tensor")
    axes = State("how many axes the tensor has", per="tensor", start="ndim")

    squares = Sum("∇L²", per=("row", "column", "matrix"))
    step_squares = Sum("u²", per="tensor", of="measure_2")
    weight_squares = Sum("w²", per="tensor", of="measure_2")

    @staticmethod
    def prepare(h, t):
        return scalars(
            share=t**h.beta2_decay,
            lr=h.lr if h.lr < 1 / sqrt(t) else 1 / sqrt(t),
            shrink=h.lr * h.weight_decay,
            eps1=h.eps1,
            eps1_squared=h.eps1 * h.eps1,
            eps2=h.eps2,
            d=h.d,
        )

    @staticmethod
    def measure(flags, s, g, p, row, column, mean, length, axes):
        return g * g

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
    def measure_2(flags, s, g, p, row, column, mean, length, axes):
        u = direction(s, g, row, column, mean, axes)
        return u * u, p * p

    @staticmethod
    def settle_tensor(flags, s, n, step_squares, weight_squares, length, axes):
        size = maximum(s.eps2, sqrt(weight_squares / n)) * s.lr
        return size / maximum(1.0, sqrt(step_squares / n) / s.d), axes

    @staticmethod
    def update(flags, s, g, p, row, column, mean, length, axes):
        u = direction(s, g, row, column, mean, axes)
        return (-(s.shrink * p) - length * u,)
