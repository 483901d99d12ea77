"""NAdam."""

from fastupdate.rules.adam import moments
from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Hyper, State, scalars
from fastupdate.rules.scalar import sqrt, warming_product


class NAdam:
    r"""Adam with Nesterov's momentum, which grows as it warms up, as `torch.optim.NAdam`.

        g ← ∇L + λw
        m ← β₁m + (1 − β₁)g
        v ← β₂v + (1 − β₂)g²            v̂ = v/(1 − β₂ᵗ)
        μₜ = β₁(1 − ½·0.96^(tψ))
        w ← w − α·(μₜ₊₁/(1 − Πᵢ₌₁ᵗ⁺¹ μᵢ)·m + (1 − μₜ)/(1 − Πᵢ₌₁ᵗ μᵢ)·g)/(√v̂ + ε)

    Source: Dozat (ICLR 2016 workshop). ψ is momentum_decay: 0.004 as in torch; 1 as in Keras. The product is of today's
    β₁ and ψ, which makes a difference to torch where these are scheduled. optax' `nadam` has no warm-up of μ:
    `momentum_decay=1e6` takes μ to β₁ at once. timm's NAdamW is the rule `NAdamW`.
    `decoupled_weight_decay=True` of torch is the option `decay="decoupled"`.
    """

    lr = Hyper(2e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.9, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.999, BELOW_ONE, "how much of the mean squared gradient stays")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")
    momentum_decay = Hyper(4e-3, NON_NEGATIVE, "ψ, how fast the momentum comes up to β₁")

    m = State("mean gradient", role="momentum")
    v = State("mean squared gradient")

    @staticmethod
    def prepare(h, t):
        now = h.beta1 * (1 - 0.5 * 0.96 ** (t * h.momentum_decay))
        then = h.beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * h.momentum_decay))
        product = warming_product(h.beta1, 0.96**h.momentum_decay, t)
        return scalars(
            of_m=h.lr * then / (1 - product * then),
            of_g=h.lr * (1 - now) / (1 - product),
            one_minus_beta1=1 - h.beta1,
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            correction2=1 / (1 - h.beta2**t),
            eps=h.eps,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, m, v):
        g = g + s.weight_decay * p
        m, v = moments(s, g, m, v)
        return -((s.of_m * m + s.of_g * g) / (sqrt(v * s.correction2) + s.eps)), m, v
