"""ASGD."""

from fastupdate.rules.rule import NON_NEGATIVE, Hyper, State, scalars
from fastupdate.rules.scalar import maximum, where


class ASGD:
    r"""Descent whose iterates are averaged, as `torch.optim.ASGD`.

        g ← ∇L + λw
        η = α/(1 + λ₀α(t − 1))^p        p is `alpha`, λ₀ `lambd`
        w ← w − λ₀ηw − ηg
        a ← a + (w − a)·μ,              μ = 1/max(1, t − 1 − t₀)

    Source: Polyak & Juditsky (SIAM J. Control Optim. 1992); the schedules are those of Bottou, as torch has them. The
    average is the state `ax`: `opt.state["ax"]`. For averages of any rule's weights see `ema_decay`.
    pytorch_optimizer's ASGD is another rule, which finds its learning rate by norms of weights and gradients.
    """

    lr = Hyper(1e-2, NON_NEGATIVE, "the first learning rate α")
    lambd = Hyper(1e-4, NON_NEGATIVE, "λ₀, by which weights shrink and the learning rate falls")
    alpha = Hyper(0.75, NON_NEGATIVE, "p, the power by which the learning rate falls")
    t0 = Hyper(1e6, NON_NEGATIVE, "t₀, the step after which weights are averaged")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")

    ax = State("average of the weights", start="p")

    @staticmethod
    def prepare(h, t):
        eta = h.lr / (1 + h.lambd * h.lr * (t - 1)) ** h.alpha
        return scalars(
            eta=eta,
            decay=h.lambd * eta,
            mu=1 / maximum(1.0, t - 1 - h.t0),
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, ax):
        g = g + s.weight_decay * p
        change = -(s.decay * p + s.eta * g)
        ax = where(s.mu < 1.0, ax + s.mu * (p + change - ax), p + change)
        return change, ax
