"""Adam for gradients of few rows."""

from fastupdate.rules.adam import moments
from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, State, scalars
from fastupdate.rules.scalar import sqrt


class SparseAdam:
    r"""Adam of the rows that a gradient touches, as `torch.optim.SparseAdam`.

        g ← ∇L + λw
        m ← β₁m + (1 − β₁)g
        v ← β₂v + (1 − β₂)g²
        w ← w − α·√(1 − β₂ᵗ)/(1 − β₁ᵗ)·m/(√v + ε)

    Where a gradient is one of few rows (`fu.Rows`, a sparse tensor of torch's), all other rows and their m and v stay
    as they are, weight decay included: that is `rows="lazy"`, which is this rule's own way (docs/sparse.md). A dense
    gradient touches all rows. t counts the steps of the tensor, whichever rows they moved. torch has no λ.

    Source: Kingma & Ba (ICLR 2015), the form at the end of section 2. Its ε is added to the root of the uncorrected v,
    and so counts 1/√(1 − β₂ᵗ) times as much as Adam's: 32 times in the first step.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty on rows that move")
    lazy_rows = True

    m = State("mean gradient", role="momentum")
    v = State("mean squared gradient")

    @staticmethod
    def prepare(h, t):
        return scalars(
            one_minus_beta1=1 - h.beta1,
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            corrected_lr=h.lr * sqrt(1 - h.beta2**t) / (1 - h.beta1**t),
            eps=h.eps,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, m, v):
        m, v = moments(s, g + s.weight_decay * p, m, v)
        return -s.corrected_lr * (m / (sqrt(v) + s.eps)), m, v
