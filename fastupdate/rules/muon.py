"""Muon."""

from fastupdate.rules.rule import BELOW_ONE, COUNT_OR_ZERO, FINITE, NON_NEGATIVE, Flag, Hyper, State, scalars

ORIGINAL = ((3.4445, -4.7750, 2.0315),)  # a, b and c of each iteration; the last are those of all that follow
QUINTIC = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def coefficients(flags, s):
    """Those that a rule is told to take, as `orthogonal` takes them."""
    return QUINTIC if flags.quintic else ((s.ns_a, s.ns_b, s.ns_c),)


def orthogonal(o, steps, coefficients=ORIGINAL, eps=1e-7, eps_added=0.0):
    """Nearly the nearest orthogonal matrix, by Newton–Schulz iterations in the words of the array library."""
    rows, columns = o.shape
    x = o.T if rows > columns else o
    x = x / max(float((x * x).sum()) ** 0.5 + eps_added, eps)
    for k in range(int(steps)):
        a, b, c = coefficients[min(k, len(coefficients) - 1)]
        square = x @ x.T
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.T if rows > columns else x


class Muon:
    r"""Muon: steps along the momentum made orthogonal, for matrices, as `torch.optim.Muon`.

        m ← μm + (1 − μ)∇L
        n = m, or with nesterov μm + (1 − μ)∇L, or with corrected m/(1 − μᵗ), or with both of them
            μm/(1 − μᵗ⁺¹) + (1 − μ)∇L/(1 − μᵗ)
        X = n/max(‖n‖ + eps_added, ε), then `ns_steps` times X ← aX + (bXXᵀ + c(XXᵀ)²)X: nearly the nearest orthogonal
            matrix
        w ← w − αλw − α·√max(1, rows/columns)·X

    or α·√max(1, columns/rows) with rows_are_inputs, for weights that inputs are multiplied by from the left; or
    α·ρ·√max(rows, columns) with match_rms_adamw, so that steps are as long as AdamW's.

    Elsewhere: optax is this with corrected, rows_are_inputs, eps_added=1e-8 and eps=0, its `consistent_rms` is ρ, its
    preset "dion" quintic. Keras sums m, by which n is 1/(1 − μ) times as long: nesterov, match_rms_adamw,
    eps_added=1e-7·(1 − μ) and eps=0. timm: quintic and match_rms_adamw. MLX couples the decay: decay="coupled".

    Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon; Liu et al., arXiv:2502.16982, for the
    second scale. The matrix products are those of the array library, in the parameter's type (torch, timm: bfloat16),
    and their bits are its own. torch's page sums m; its code takes the mean, as here. timm's presets "polar_express"
    and its `safety_factor` are no arguments here.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    weight_decay = Hyper(0.1, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    momentum = Hyper(0.95, BELOW_ONE, "μ, how much of the mean gradient stays from step to step")
    nesterov = Flag("look ahead along the momentum")
    ns_a = Hyper(3.4445, FINITE, "a, of the iteration's odd polynomial")
    ns_b = Hyper(-4.7750, FINITE, "b")
    ns_c = Hyper(2.0315, FINITE, "c")
    eps = Hyper(1e-7, NON_NEGATIVE, "ε, the least norm that a matrix is divided by")
    ns_steps = Hyper(5, COUNT_OR_ZERO, "how many iterations")
    decoupled_decay = True

    match_rms_adamw = Flag("scale steps as AdamW's", of="matrix")
    rows_are_inputs = Flag("scale steps by columns over rows", of="matrix")
    rms_rate = Hyper(0.2, NON_NEGATIVE, "ρ, the root mean square of a step of match_rms_adamw, over α")
    eps_added = Hyper(0.0, NON_NEGATIVE, "what is added to the norm that a matrix is divided by")
    corrected = Flag("correct the bias of the momentum, and of the gradient beside it")
    quintic = Flag("take five triples of coefficients, one for each iteration, in place of a, b and c", of="matrix")

    m = State("mean gradient", role="momentum")
    o = State("the direction", lasts=False)

    @staticmethod
    def prepare(h, t):
        correction = 1 / (1 - h.momentum**t)
        return scalars(
            lr=h.lr,
            momentum=h.momentum,
            one_minus_momentum=1 - h.momentum,
            correction=correction,
            share_of_mean=h.momentum / (1 - h.momentum ** (t + 1)),
            share_of_gradient=(1 - h.momentum) * correction,
            shrink=h.lr * h.weight_decay,
            ns_a=h.ns_a,
            ns_b=h.ns_b,
            ns_c=h.ns_c,
            ns_steps=h.ns_steps,
            eps=h.eps,
            eps_added=h.eps_added,
            rms_rate=h.rms_rate,
        )

    @staticmethod
    def measure(flags, s, g, p, m, o):
        mean = m + s.one_minus_momentum * (g - m)
        ahead = g + s.momentum * (mean - g) if flags.nesterov else mean
        if flags.corrected:
            ahead = s.share_of_mean * mean + s.share_of_gradient * g if flags.nesterov else s.correction * mean
        return m, ahead

    @staticmethod
    def matrix(flags, s, o):
        rows, columns = o.shape
        ratio = columns / rows if flags.rows_are_inputs else rows / columns
        scale = s.rms_rate * max(rows, columns) ** 0.5 if flags.match_rms_adamw else max(1.0, ratio) ** 0.5
        return scale * orthogonal(o, s.ns_steps, coefficients(flags, s), s.eps, s.eps_added)

    @staticmethod
    def update(flags, s, g, p, m, o):
        m = m + s.one_minus_momentum * (g - m)
        return -(s.shrink * p) - s.lr * o, m, o
