"""Sophia."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, POSITIVE, Flag, Hyper, State, scalars
from fastupdate.rules.scalar import maximum, where


class Sophia:
    r"""Sophia: momentum over curvature, clipped, as `optax.contrib.sophia` with bias_correction.

        m ← β₁m + (1 − β₁)∇L            m̂ = m/(1 − β₁ᵗ) with bias_correction, else m
        w ← w − αλw − α·clip(m̂/max(γh, ε), −ρ, ρ)

    The diagonal h of the Hessian is yours to estimate, and to average in place, every tenth step or so: by Hutchinson's
    estimator u·(∇²L·u), or by squares of gradients of sampled labels times their number:

        for h, estimate in zip(opt.state["hessian"], estimates):
            h += (1 - 0.99) * (estimate - h)

    optax does so after a step, the paper and pytorch_optimizer before it; h starts from 0, where steps are α·ρ.

    Source: Liu et al., arXiv:2305.14342 (2023), algorithm 3; ρ is 1 there. `SophiaH` of pytorch_optimizer has γ = 1,
    its `p` is ρ.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.965, BELOW_ONE, "how much of the mean gradient stays from step to step")
    gamma = Hyper(0.01, NON_NEGATIVE, "γ, a factor of the curvature: the larger, the fewer elements are clipped")
    rho = Hyper(1.0, POSITIVE, "ρ, the longest step in units of α")
    eps = Hyper(1e-8, POSITIVE, "ε, the least that is divided by")
    weight_decay = Hyper(1e-4, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    decoupled_decay = True

    bias_correction = Flag("correct the first steps as Adam does")

    m = State("mean gradient", role="momentum")
    hessian = State("mean diagonal of the Hessian: yours to write")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            one_minus_beta1=1 - h.beta1,
            correction1=1 / (1 - h.beta1**t),
            gamma=h.gamma,
            rho=h.rho,
            eps=h.eps,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, m, hessian):
        m = m + s.one_minus_beta1 * (g - m)
        m_hat = m * s.correction1 if flags.bias_correction else m
        step = m_hat / maximum(s.gamma * hessian, s.eps)
        step = where(step > s.rho, s.rho, step)
        step = where(step < -s.rho, -s.rho, step)
        return -s.lr * (step + s.weight_decay * p), m, hessian
