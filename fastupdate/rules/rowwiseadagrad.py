"""Adagrad with one number for each row."""

from fastupdate.rules.rule import NON_NEGATIVE, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import sqrt


class RowwiseAdagrad:
    r"""Adagrad with one sum for each row of a matrix, as FBGEMM and torchrec train embedding tables.

        g ← ∇L + λw
        G ← G + mean of g² over the row
        w ← w − α/(1 + (t − 1)·lr_decay)·g/(√G + ε)

    Where a gradient is one of few rows (`fu.Rows`, a sparse tensor of torch's), all other rows and their sums stay as
    they are: that is `rows="lazy"`, which is this rule's own way (docs/sparse.md). A vector is a matrix of one column;
    of more than two axes the last one is that of rows.

    Source: Duchi, Hazan & Singer (JMLR 2011), with what FBGEMM's EXACT_ROWWISE_ADAGRAD, its weight decay being L2, and
    torchrec's RowWiseAdagrad make of it. Their sums are float32; here they are float64.
    """

    lr = Hyper(1e-2, NON_NEGATIVE, "learning rate α")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root")
    initial_accumulator_value = Hyper(0.0, NON_NEGATIVE, "what G starts from")
    lr_decay = Hyper(0.0, NON_NEGATIVE, "how fast the learning rate falls")
    lazy_rows = True

    total = State("sum of mean squared gradients G of a row", per="row", start="initial_accumulator_value")

    squares = Sum("g²", per="row")

    @staticmethod
    def prepare(h, t):
        return scalars(lr=h.lr / (1 + (t - 1) * h.lr_decay), eps=h.eps, weight_decay=h.weight_decay)

    @staticmethod
    def measure(flags, s, g, p, total):
        g = g + s.weight_decay * p
        return g * g

    @staticmethod
    def settle_row(flags, s, n, squares, total):
        return total + squares / n

    @staticmethod
    def update(flags, s, g, p, total):
        g = g + s.weight_decay * p
        return (-s.lr * (g / (sqrt(total) + s.eps)),)
