"""Adan."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, State, scalars
from fastupdate.rules.scalar import sqrt


class Adan:
    r"""Adan: Adam with Nesterov's momentum, told from how gradients change, as `timm.optim.Adan`.

        d ← ∇L − the gradient of the step before; 0 in step 1
        m ← β₁m + (1 − β₁)∇L            m̂ = m/(1 − β₁ᵗ)
        v ← β₂v + (1 − β₂)d             v̂ = v/(1 − β₂ᵗ)
        n ← β₃n + (1 − β₃)(∇L + β₂d)²   n̂ = n/(1 − β₃ᵗ)
        w ← (w − α·(m̂ + β₂v̂)/(√n̂ + ε)) / (1 + αλ)
        no_prox: w ← (1 − αλ)w − α·(m̂ + β₂v̂)/(√n̂ + ε)

    Source: Xie et al., arXiv:2208.06677 (2022), algorithm 1, whose β are 1 − β here.
    pytorch_optimizer's weight_decouple is no_prox. optax.adan has 1 − β₂ where β₂ stands above, with the same default
    β₂ = 0.92: 0.08 of what changes is in its step, where the paper has 0.92; and its root is √(n̂ + 1e-8) + ε.
    """

    lr = Hyper(1e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.98, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.92, BELOW_ONE, "how much of the mean change of gradients stays")
    beta3 = Hyper(0.99, BELOW_ONE, "how much of the mean square stays")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the root")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights are divided by 1 + αλ")
    decoupled_decay = True
    own_decay = True

    no_prox = Flag("multiply weights by 1 − αλ before the step, as AdamW, instead of dividing them after it")

    m = State("mean gradient", role="momentum")
    v = State("mean change of gradients")
    n = State("mean square of gradients and their changes")
    previous = State("the gradient of the step before")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            shrunk_lr=h.lr / (1 + h.lr * h.weight_decay),
            one_minus_beta1=1 - h.beta1,
            beta2=h.beta2,
            one_minus_beta2=1 - h.beta2,
            beta3=h.beta3,
            one_minus_beta3=1 - h.beta3,
            correction1=1 / (1 - h.beta1**t),
            correction2=h.beta2 / (1 - h.beta2**t),
            correction3=1 / (1 - h.beta3**t),
            eps=h.eps,
            weight_decay=h.weight_decay,
            changed=1 if t > 1 else 0,
        )

    @staticmethod
    def update(flags, s, g, p, m, v, n, previous):
        d = s.changed * (g - previous)
        ahead = g + s.beta2 * d
        m = m + s.one_minus_beta1 * (g - m)
        v = v + s.one_minus_beta2 * (d - v)
        n = s.beta3 * n + s.one_minus_beta3 * (ahead * ahead)
        step = (m * s.correction1 + v * s.correction2) / (sqrt(n * s.correction3) + s.eps)
        lr = s.lr if flags.no_prox else s.shrunk_lr
        previous = g
        return -lr * (step + s.weight_decay * p), m, v, n, previous
