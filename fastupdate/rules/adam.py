"""Adam."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, State, scalars
from fastupdate.rules.scalar import maximum, sqrt


def moments(s, g, m, v):
    """The new moments."""
    m = m + s.one_minus_beta1 * (g - m)
    v = s.beta2 * v + s.one_minus_beta2 * (g * g)
    return m, v


def direction(flags, s, g, m, v, v_max):
    """m̂ / (√v̂ + ε), and the new moments."""
    m, v = moments(s, g, m, v)
    m_hat = m if flags.uncorrected else m * s.correction1
    v_hat = v if flags.uncorrected else v * s.correction2
    if flags.amsgrad:
        v_max = maximum(v_max, v_hat if flags.corrected_max else v)
        v_hat = v_max if flags.corrected_max or flags.uncorrected else v_max * s.correction2
    return m_hat / (sqrt(v_hat) + (s.eps_hat if flags.eps_hat and not flags.uncorrected else s.eps)), m, v, v_max


class Adam:
    r"""Adam, as `torch.optim.Adam`: weight decay is L2 regularisation.

        g ← ∇L + λw
        m ← β₁m + (1 − β₁)g             m̂ = m/(1 − β₁ᵗ)
        v ← β₂v + (1 − β₂)g²            v̂ = v/(1 − β₂ᵗ), of the largest v so far with amsgrad
        w ← w − α·m̂/(√v̂ + ε)
        eps_hat:       w ← w − α·√(1 − β₂ᵗ)·m̂/(√v + ε), as Keras, thinc and chainer
        uncorrected:   m̂ = m and v̂ = v, as MLX unless it is told to correct

    Source: Kingma & Ba (ICLR 2015), algorithm 1; AMSGrad: Reddi, Kale & Kumar (ICLR 2018).
    amsgrad is torch's, Keras' and chainer's, the largest v; with corrected_max it is optax', the largest v̂, which is
    larger in first steps.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")

    amsgrad = Flag("divide by the root of the largest v so far")
    corrected_max = Flag("take the largest v̂ instead, as optax; needs amsgrad")
    eps_hat = Flag("add ε to the root of v before it is corrected")
    uncorrected = Flag("leave the moments uncorrected")

    m = State("mean gradient", role="momentum")
    v = State("mean squared gradient")
    v_max = State("the largest v so far", when="amsgrad")

    @staticmethod
    def check(given):
        if given["corrected_max"] and not given["amsgrad"]:
            return "corrected_max: expected amsgrad=True beside it, received False"
        return None

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            one_minus_beta1=1 - h.beta1,
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            correction1=1 / (1 - h.beta1**t),
            correction2=1 / (1 - h.beta2**t),
            eps=h.eps,
            eps_hat=h.eps / sqrt(1 - h.beta2**t),
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, m, v, v_max):
        g = g + s.weight_decay * p
        step, m, v, v_max = direction(flags, s, g, m, v, v_max)
        return -s.lr * step, m, v, v_max
