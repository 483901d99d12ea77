"""AdEMAMix."""

from fastupdate.rules.adam import moments
from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, State, scalars
from fastupdate.rules.scalar import exp, log, sqrt


class AdEMAMix:
    r"""AdEMAMix: AdamW with a second, much slower mean of gradients, as `optax.contrib.ademamix`.

        m₁ ← β₁m₁ + (1 − β₁)∇L          m̂₁ = m₁/(1 − β₁ᵗ)
        m₂ ← β₃m₂ + (1 − β₃)∇L          which is not corrected
        v ← β₂v + (1 − β₂)∇L²           v̂ = v/(1 − β₂ᵗ)
        w ← w − η·((m̂₁ + αm₂)/(√v̂ + ε) + λw)

    α and β₃ may rise to their values in the first T steps, from t = 1 on:

        α(t) = αt/T
        β₃(t) = exp(1 / ((1 − t/T)/ln β₁ + (t/T)/ln β₃)), so that the half-life rises evenly from that of β₁

    Source: Pagliardini, Ablin & Grangier, arXiv:2409.03137 (2024), algorithm 1.
    pytorch_optimizer has one T: give both, and weight_decay joins the gradient there unless weight_decouple: that is
    decay="coupled" here. optax takes schedules, which count from 0: alpha=schedule is the same here.
    bitsandbytes counts from 1, as here, and decays by λ = 0.01 unless told otherwise, on CUDA with decay="after".
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate η")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the fast mean stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays")
    beta3 = Hyper(0.9999, BELOW_ONE, "how much of the slow mean stays")
    alpha = Hyper(5.0, NON_NEGATIVE, "α, how much of the slow mean is in the step")
    t_alpha = Hyper(0.0, NON_NEGATIVE, "T of α: the number of steps in which it rises; 0: none")
    t_beta3 = Hyper(0.0, NON_NEGATIVE, "T of β₃: the number of steps in which it rises; 0: none")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by ηλ of themselves")
    decoupled_decay = True

    m1 = State("fast mean of gradients", role="momentum")
    m2 = State("slow mean of gradients")
    v = State("mean squared gradient")

    @staticmethod
    def prepare(h, t):
        until = h.t_beta3 if h.beta3 > h.beta1 else 0
        done = t / until if until > t else 1
        beta3 = exp(1 / ((1 - done) / log(h.beta1) + done / log(h.beta3))) if done < 1 else h.beta3
        return scalars(
            lr=h.lr,
            one_minus_beta1=1 - h.beta1,
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            one_minus_beta3=1 - beta3,
            alpha=h.alpha * t / h.t_alpha if h.t_alpha > t else h.alpha,
            correction1=1 / (1 - h.beta1**t),
            correction2=1 / (1 - h.beta2**t),
            eps=h.eps,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, m1, m2, v):
        m1, v = moments(s, g, m1, v)
        m2 = m2 + s.one_minus_beta3 * (g - m2)
        step = (m1 * s.correction1 + s.alpha * m2) / (sqrt(v * s.correction2) + s.eps)
        return -s.lr * (step + s.weight_decay * p), m1, m2, v
