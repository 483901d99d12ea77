"""AdamW."""

from fastupdate.rules.adam import Adam, direction
from fastupdate.rules.rule import NON_NEGATIVE, Hyper


class AdamW(Adam):
    r"""Adam with decoupled weight decay, as `torch.optim.AdamW`.

        m ← β₁m + (1 − β₁)∇L            m̂ = m/(1 − β₁ᵗ)
        v ← β₂v + (1 − β₂)∇L²           v̂ = v/(1 − β₂ᵗ), of the largest v so far with amsgrad
        w ← w − α·(m̂/(√v̂ + ε) + λw)
        eps_hat:       √(1 − β₂ᵗ)·m̂/(√v + ε) in place of m̂/(√v̂ + ε), as Keras
        uncorrected:   m̂ = m and v̂ = v, as MLX unless it is told to correct

    Source: Loshchilov & Hutter (ICLR 2019), algorithm 2, with the decay times the learning rate.
    chainer decays by λ without α: decay="independent"; optimi's decouple_lr and FlashOptim by λα/α₀, of the largest or
    first α₀: there λ is a schedule. thinc, and bitsandbytes on CUDA, decay after the step: decay="after".
    """

    weight_decay = Hyper(1e-2, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    decoupled_decay = True

    @staticmethod
    def update(flags, s, g, p, m, v, v_max):
        step, m, v, v_max = direction(flags, s, g, m, v, v_max)
        return -s.lr * (step + s.weight_decay * p), m, v, v_max
