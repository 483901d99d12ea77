"""NovoGrad."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import maximum, sqrt, where


class NovoGrad:
    r"""NovoGrad: momentum of gradients over the running length of each tensor's, as `timm.optim.NvNovoGrad`.

        v ← β₂v + (1 − β₂)‖∇L‖², the norm being of the tensor; ‖∇L‖² the first time
        m ← β₁m + ∇L/(√v + ε) + λw
        w ← w − αm
        amsgrad:          the largest v so far in place of v
        grad_averaging:   m ← β₁m + (1 − β₁)·(∇L/(√v + ε) + λw)
        divide_mean:      m ← β₁m + ∇L, w ← w − α·(m/(√v + ε) + λw)
        corrected:        m/(1 − β₁ᵗ) in place of m, √(v/(1 − β₂ᵗ)) in place of √v, though v starts from ‖∇L‖²

    Source: Ginsburg et al., arXiv:1905.11286, algorithm 1. optax has β₁ 0.9, β₂ 0.25 and ε 1e-6.
    apex has grad_averaging and corrected, unless told otherwise, and divide_mean without its reg_inside_moment.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.95, BELOW_ONE, "how much of the momentum stays from step to step")
    beta2 = Hyper(0.98, BELOW_ONE, "how much of the mean squared norm stays")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, which pulls weights to zero by way of the momentum")
    own_decay = True

    amsgrad = Flag("divide by the root of the largest v so far")
    grad_averaging = Flag("take the mean of what is summed in m")
    divide_mean = Flag("divide the momentum, which is of gradients, instead of each of them")
    corrected = Flag("correct the first steps as Adam does")

    m = State("momentum", role="momentum")
    v = State("mean squared norm of the gradient", per="tensor")
    v_max = State("the largest v so far", per="tensor")

    squares = Sum("‖∇L‖²", per="tensor")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            beta1=h.beta1,
            one_minus_beta1=1 - h.beta1,
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            correction1=1 / (1 - h.beta1**t),
            root_correction2=1 / sqrt(1 - h.beta2**t),
            eps=h.eps,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def measure(flags, s, g, p, m, v, v_max):
        return g * g, m

    @staticmethod
    def settle_tensor(flags, s, n, squares, v, v_max):
        v = where(v > 0.0, s.beta2 * v + s.one_minus_beta2 * squares, squares)
        return v, maximum(v_max, v)

    @staticmethod
    def update(flags, s, g, p, m, v, v_max):
        root = sqrt(v_max if flags.amsgrad else v)
        length = (root * s.root_correction2 if flags.corrected else root) + s.eps
        step = g if flags.divide_mean else g / length + s.weight_decay * p
        if flags.grad_averaging:
            step = s.one_minus_beta1 * step
        m = s.beta1 * m + step
        step = m * s.correction1 if flags.corrected else m
        if flags.divide_mean:
            step = step / length + s.weight_decay * p
        return -s.lr * step, m
