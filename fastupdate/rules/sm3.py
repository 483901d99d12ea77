"""SM3."""

from fastupdate.rules.rule import BELOW_ONE, FRACTION, NON_NEGATIVE, Hyper, Maximum, State, scalars
from fastupdate.rules.scalar import maximum, sqrt, where


class SM3:
    r"""SM3: Adagrad whose squares are kept for rows and columns instead of elements, as `optax.sm3`.

        g ← ∇L + λw
        v = β₂·min(row, column) + g²             with β₂ < 1: + (1 − β₂)g²
        m ← μm + (1 − μ)·g/√(v + ε)              0 where v is
        row, column ← the largest v in it
        w ← w − αm

    A vector is a matrix of one column, so that each of its elements has a number of its own. Of more than two axes the
    last two are those of matrices, each with rows and columns of its own: that covers them more finely than one number
    for each place on each axis, as optax and pytorch_optimizer have it. After twelve steps of 0.01 they are 0.004 apart
    where there are three axes; a view of two, as w.reshape(-1, w.shape[-1]), covers less finely, and is as far away.

    Source: Anil, Gupta, Koren & Singer, arXiv:1901.11150 (NeurIPS 2019), algorithm SM3-II with momentum. ε is optax';
    the paper has none, pytorch_optimizer 10⁻³⁰ and no momentum. The latter's β > 0 is another rule than β₂ < 1 is here:
    its numbers of rows and columns never fall. None of the three decays weights.
    """

    lr = Hyper(0.1, NON_NEGATIVE, "learning rate α")
    momentum = Hyper(0.9, BELOW_ONE, "μ, how much of the mean step stays from step to step")
    beta2 = Hyper(1.0, FRACTION, "how much of the squares stays: 1 adds them up")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added within the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")

    m = State("mean step", role="momentum")
    row = State("the largest v of a row", per="row")
    column = State("the largest v of a column", per="column")

    largest = Maximum("v", per=("row", "column"))

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            one_minus_momentum=1 - h.momentum,
            beta2=h.beta2,
            share=1 - h.beta2 if h.beta2 < 1 else 1.0,
            eps=h.eps,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def measure(flags, s, g, p, m, row, column):
        g = g + s.weight_decay * p
        v = s.beta2 * -maximum(-row, -column) + s.share * (g * g)
        step = where(v > 0.0, g / sqrt(v + s.eps), 0.0 * g)
        return v, m + s.one_minus_momentum * (step - m)

    @staticmethod
    def settle_row(flags, s, n, largest, row):
        return largest

    @staticmethod
    def settle_column(flags, s, n, largest, column):
        return largest

    @staticmethod
    def update(flags, s, g, p, m, row, column):
        return -s.lr * m, m
