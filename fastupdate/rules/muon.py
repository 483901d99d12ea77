"""Muon."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, State, scalars

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the iteration's odd polynomial
ITERATIONS = 5


def orthogonal(o):
    """Nearly the nearest orthogonal matrix, by Newton–Schulz iterations in the words of the array library."""
    rows, columns = o.shape
    x = o.T if rows > columns else o
    x = x / max(float((x * x).sum()) ** 0.5, 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.T if rows > columns else x


class Muon:
    r"""Muon: steps along the momentum made orthogonal, for matrices, as `torch.optim.Muon`.

        m ← μm + (1 − μ)∇L
        o = the nearest orthogonal matrix to μm + (1 − μ)∇L (to m, without nesterov), by five Newton–Schulz iterations
        w ← w − αλw − α·√max(1, rows/columns)·o

    or α·√max(1, columns/rows) with rows_are_inputs, for weights that inputs are multiplied by from the left, as optax;
    or α·0.2·√max(rows, columns) with match_rms_adamw, so that steps are as long as AdamW's, as Keras.

    Keras and optax sum m otherwise, which is orthogonal in the same directions: but optax' nesterov corrects m for its
    start, so that the first steps mix it with ∇L in other shares.

    Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon; Liu et al., arXiv:2502.16982, for the
    second scale. The matrix products are those of the array library, in the parameter's type (torch: bfloat16), and
    their bits are its own. torch's page sums m; its code takes the mean, as here. timm's class has other coefficients,
    no nesterov, and match_rms_adamw, unless it is told otherwise. MLX couples the decay: decay="coupled".
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    weight_decay = Hyper(0.1, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    momentum = Hyper(0.95, BELOW_ONE, "μ, how much of the mean gradient stays from step to step")
    decoupled_decay = True

    nesterov = Flag("look ahead along the momentum")
    match_rms_adamw = Flag("scale steps as AdamW's")
    rows_are_inputs = Flag("scale steps by columns over rows")

    m = State("mean gradient", role="momentum")
    o = State("the direction", lasts=False)

    @staticmethod
    def prepare(h, t):
        return scalars(lr=h.lr, momentum=h.momentum, one_minus_momentum=1 - h.momentum, shrink=h.lr * h.weight_decay)

    @staticmethod
    def measure(flags, s, g, p, m, o):
        mean = m + s.one_minus_momentum * (g - m)
        return m, (g + s.momentum * (mean - g) if flags.nesterov else mean)

    @staticmethod
    def matrix(flags, o):
        rows, columns = o.shape
        ratio = columns / rows if flags.rows_are_inputs else rows / columns
        scale = 0.2 * max(rows, columns) ** 0.5 if flags.match_rms_adamw else max(1.0, ratio) ** 0.5
        return scale * orthogonal(o)

    @staticmethod
    def update(flags, s, g, p, m, o):
        m = m + s.one_minus_momentum * (g - m)
        return -(s.shrink * p) - s.lr * o, m, o
