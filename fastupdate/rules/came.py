"""CAME."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, POSITIVE, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import maximum, sqrt, where


def root(row, column, mean, axes):
    """√v, where v is known by its rows and columns; a vector's v is what its rows hold."""
    return where(axes > 1.0, sqrt(row / mean) * sqrt(column), sqrt(row))


class CAME:
    r"""CAME: Adafactor with momentum, which trusts itself less where the momentum is off, as `pytorch_optimizer.CAME`.

        r ← β₂r + (1 − β₂)·mean of ∇L² + ε₁ in the row     c likewise in the column, of the last two axes
        v = r·c/mean of r                                   (of a vector, v = r, the row being an element)
        u = ∇L/√v, over max(1, rms u / d)
        m ← β₁m + (1 − β₁)u
        R ← β₃R + (1 − β₃)·mean of (u − m)² + ε₂ in the row    C likewise in the column
        w ← w − αλw − α·m/√(R·C/mean of R)                  (of a vector, w − αλw − αm)

    Source: Luo et al., arXiv:2307.02047, algorithm 2. The means of r and R are kept as states of their own, so that
    they may differ from the means of the r's by a rounding.
    """

    lr = Hyper(2e-4, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean direction stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays")
    beta3 = Hyper(0.9999, BELOW_ONE, "how much of the mean squared deviation stays")
    eps1 = Hyper(1e-30, POSITIVE, "ε₁, added to squared gradients")
    eps2 = Hyper(1e-16, POSITIVE, "ε₂, added to squared deviations")
    d = Hyper(1.0, POSITIVE, "the root mean square that u is clipped to")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    decoupled_decay = True

    m = State("mean direction", role="momentum")
    row = State("mean squared gradient of a row", per="row")
    row_off = State("mean squared deviation of a row", per="row")
    column = State("mean squared gradient of a column", per="column")
    column_off = State("mean squared deviation of a column", per="column")
    mean = State("mean squared gradient of a matrix", per="matrix")
    mean_off = State("mean squared deviation of a matrix", per="matrix")
    scale = State("what g/√v was multiplied by in the last step", per="tensor", start=1.0)

    squares = Sum("∇L² + ε₁", per=("row", "column", "matrix"))
    step_squares = Sum("u²", per="tensor", of="measure_2")
    off_squares = Sum("(u − m)² + ε₂", per=("row", "column", "matrix"), of="measure_3")
    axes = State("how many axes the tensor has", per="tensor", start="ndim")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            one_minus_beta1=1 - h.beta1,
            one_minus_beta2=1 - h.beta2,
            one_minus_beta3=1 - h.beta3,
            eps1=h.eps1,
            eps2=h.eps2,
            d=h.d,
            shrink=h.lr * h.weight_decay,
        )

    @staticmethod
    def measure(flags, s, g, p, m, row, row_off, column, column_off, mean, mean_off, scale, axes):
        return g * g + s.eps1, m

    @staticmethod
    def settle_row(flags, s, n, squares, row, row_off):
        return row + s.one_minus_beta2 * (squares / n - row), row_off

    @staticmethod
    def settle_column(flags, s, n, squares, column, column_off):
        return column + s.one_minus_beta2 * (squares / n - column), column_off

    @staticmethod
    def settle_matrix(flags, s, n, squares, mean, mean_off):
        return mean + s.one_minus_beta2 * (squares / n - mean), mean_off

    @staticmethod
    def measure_2(flags, s, g, p, m, row, row_off, column, column_off, mean, mean_off, scale, axes):
        u = g / root(row, column, mean, axes)
        return u * u, m

    @staticmethod
    def settle_tensor(flags, s, n, step_squares, scale, axes):
        return 1.0 / maximum(1.0, sqrt(step_squares / n) / s.d), axes

    @staticmethod
    def measure_3(flags, s, g, p, m, row, row_off, column, column_off, mean, mean_off, scale, axes):
        u = scale * (g / root(row, column, mean, axes))
        m = m + s.one_minus_beta1 * (u - m)
        off = u - m
        return off * off + s.eps2, m

    @staticmethod
    def settle_row_3(flags, s, n, off_squares, row, row_off):
        return row, row_off + s.one_minus_beta3 * (off_squares / n - row_off)

    @staticmethod
    def settle_column_3(flags, s, n, off_squares, column, column_off):
        return column, column_off + s.one_minus_beta3 * (off_squares / n - column_off)

    @staticmethod
    def settle_matrix_3(flags, s, n, off_squares, mean, mean_off):
        return mean, mean_off + s.one_minus_beta3 * (off_squares / n - mean_off)

    @staticmethod
    def update(flags, s, g, p, m, row, row_off, column, column_off, mean, mean_off, scale, axes):
        step = where(axes > 1.0, m / root(row_off, column_off, mean_off, axes), m)
        return -(s.shrink * p) - s.lr * step, m
