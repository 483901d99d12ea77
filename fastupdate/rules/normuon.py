"""NorMuon."""

from fastupdate.rules.muon import coefficients, orthogonal
from fastupdate.rules.rule import BELOW_ONE, COUNT_OR_ZERO, FINITE, NON_NEGATIVE, Flag, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import sqrt


class NorMuon:
    r"""Muon whose rows are divided by their running size, as `pytorch_optimizer.NorMuon`.

        m ← μm + (1 − μ)∇L
        o = √max(1, rows/columns) · the nearest orthogonal matrix to m, with nesterov to μm + (1 − μ)∇L
        v ← β₂v + (1 − β₂)·mean of o² over a row
        ô = o/(√v + ε)
        w ← w − αλw − α·ô·‖o‖/(‖ô‖ + ε)

    or, with match_rms_adamw, α·ô·0.2·√n/(‖ô‖ + ε), of n elements, and o without its factor, so that steps are as long
    as AdamW's. pytorch_optimizer has the factor after the division, which differs by what ε is beside √v.

    Source: Li et al., arXiv:2510.05491 (2025): match_rms_adamw is its algorithm 1, the default is its code. The matrix
    products are those of the array library, in the parameter's type (pytorch_optimizer: bfloat16), and their bits are
    its own. dion's NorMuon can split matrices into heads and shards, and makes each part orthogonal by itself: of two
    halves of a small matrix that is 0.0456 after twelve steps of 0.02, and it does so here if it is handed a view of
    each part, as the items of w.reshape(heads, -1, columns).
    """

    lr = Hyper(2e-2, NON_NEGATIVE, "learning rate α")
    momentum = Hyper(0.95, BELOW_ONE, "μ, how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.95, BELOW_ONE, "how much of a row's mean square stays")
    eps = Hyper(1e-10, NON_NEGATIVE, "ε, added to roots")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    decoupled_decay = True

    nesterov = Flag("look ahead along the momentum")
    match_rms_adamw = Flag("scale steps as AdamW's")
    ns_a = Hyper(3.4445, FINITE, "a, of the Newton–Schulz iteration's odd polynomial (see Muon)")
    ns_b = Hyper(-4.7750, FINITE, "b")
    ns_c = Hyper(2.0315, FINITE, "c")
    ns_steps = Hyper(5, COUNT_OR_ZERO, "how many iterations")
    quintic = Flag("take five triples of coefficients, one for each iteration, in place of a, b and c", of="matrix")

    m = State("mean gradient", role="momentum")
    o = State("the direction", lasts=False)
    v = State("mean square of a row of directions", per="row")
    size = State("‖o‖", per="tensor", lasts=False)
    scale = State("what ô is multiplied by", per="tensor", lasts=False)

    squares = Sum("o²", per=("row", "tensor"), of="measure_2")
    divided = Sum("ô²", per="tensor", of="measure_3")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            momentum=h.momentum,
            one_minus_momentum=1 - h.momentum,
            one_minus_beta2=1 - h.beta2,
            eps=h.eps,
            shrink=h.lr * h.weight_decay,
            ns_a=h.ns_a,
            ns_b=h.ns_b,
            ns_c=h.ns_c,
            ns_steps=h.ns_steps,
        )

    @staticmethod
    def measure(flags, s, g, p, m, o, v, size, scale):
        mean = m + s.one_minus_momentum * (g - m)
        return m, (g + s.momentum * (mean - g) if flags.nesterov else mean)

    @staticmethod
    def matrix(flags, s, o):
        rows, columns = o.shape
        direction = orthogonal(o, s.ns_steps, coefficients(flags, s))
        return direction if flags.match_rms_adamw else max(1.0, rows / columns) ** 0.5 * direction

    @staticmethod
    def measure_2(flags, s, g, p, m, o, v, size, scale):
        return o * o, m, o

    @staticmethod
    def settle_row(flags, s, n, squares, v):
        return v + s.one_minus_beta2 * (squares / n - v)

    @staticmethod
    def settle_tensor(flags, s, n, squares, size, scale):
        return sqrt(squares), scale

    @staticmethod
    def measure_3(flags, s, g, p, m, o, v, size, scale):
        direction = o / (sqrt(v) + s.eps)
        return direction * direction, m, o

    @staticmethod
    def settle_tensor_3(flags, s, n, divided, size, scale):
        length = 0.2 * sqrt(n) if flags.match_rms_adamw else size
        return size, length / (sqrt(divided) + s.eps)

    @staticmethod
    def update(flags, s, g, p, m, o, v, size, scale):
        m = m + s.one_minus_momentum * (g - m)
        return -(s.shrink * p) - s.lr * scale * (o / (sqrt(v) + s.eps)), m, o
