"""Adam-mini."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import sqrt, where


class AdamMini:
    r"""Adam-mini: AdamW with one v for each row of a matrix, one for a whole vector, as `pytorch_optimizer.AdamMini`.

        m ← β₁m + (1 − β₁)∇L                        m̂ = m/(1 − β₁ᵗ)
        v ← β₂v + (1 − β₂)·mean of ∇L²              v̂ = v/(1 − β₂ᵗ), the mean being of the row, or of the tensor
        w ← w − α·(m̂/(√v̂ + ε) + λw)

    Source: Zhang et al., arXiv:2406.16793, algorithms 1 and 3: v by rows is their partition of what maps to output
    neurons, and of embeddings by tokens. v by heads is that of queries and keys: hand over a view whose rows are heads,
    `w.reshape(heads, -1)`, and its gradient likewise. What blocks a parameter has is told by names there; here by its
    axes, and by `whole`, for models that are no Transformers. pytorch_optimizer's blocks are heads, and whole tensors
    elsewhere but for embeddings.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    decoupled_decay = True

    whole = Flag("have one v for a matrix too")

    m = State("mean gradient", role="momentum")
    v = State("mean squared gradient of a row", per="row")
    v_whole = State("mean squared gradient of the tensor", per="tensor")
    axes = State("how many axes the tensor has", per="tensor", start="ndim")

    squares = Sum("∇L²", per=("row", "tensor"))

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            one_minus_beta1=1 - h.beta1,
            one_minus_beta2=1 - h.beta2,
            correction1=1 / (1 - h.beta1**t),
            correction2=1 / (1 - h.beta2**t),
            eps=h.eps,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def measure(flags, s, g, p, m, v, v_whole, axes):
        return g * g, m

    @staticmethod
    def settle_row(flags, s, n, squares, v):
        return v + s.one_minus_beta2 * (squares / n - v)

    @staticmethod
    def settle_tensor(flags, s, n, squares, v_whole, axes):
        return v_whole + s.one_minus_beta2 * (squares / n - v_whole), axes

    @staticmethod
    def update(flags, s, g, p, m, v, v_whole, axes):
        m = m + s.one_minus_beta1 * (g - m)
        v = v_whole if flags.whole else where(axes > 1.0, v, v_whole)
        step = m * s.correction1 / (sqrt(v * s.correction2) + s.eps)
        return -s.lr * (step + s.weight_decay * p), m
