"""Rprop."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, POSITIVE, Flag, Hyper, State, scalars
from fastupdate.rules.scalar import maximum, sign, where


class Rprop:
    r"""A step size for each weight, which grows while the gradient keeps its sign, as `torch.optim.Rprop`.

        g ← ∇L + λw
        η ← η₊η where g·g' > 0, η₋η where g·g' < 0, within [step_min, step_max];   g' the gradient before
        g ← 0 where g·g' < 0
        w ← w − η·sign(g)
        one_late:   w ← w − η·sign(g) of the step before, as optax 0.2.8

    Source: Riedmiller & Braun (1993), in torch's form: a step that has gone too far is not taken back. α is what η
    starts from, and nothing else. For whole batches: noise flips signs. With one_late and gradients of 1, w goes from 1
    to 1, 0.99, 0.978; else to 0.99, 0.978, 0.9636. torch has no λ.
    """

    lr = Hyper(1e-2, POSITIVE, "the first step size α")
    eta_minus = Hyper(0.5, BELOW_ONE, "η₋, by which a step size shrinks")
    eta_plus = Hyper(1.2, POSITIVE, "η₊, by which a step size grows")
    step_min = Hyper(1e-6, NON_NEGATIVE, "the smallest step size")
    step_max = Hyper(50.0, POSITIVE, "the largest step size")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")

    one_late = Flag("take each step one step later, as optax")

    prev = State("the gradient before")
    step_size = State("step size η", start="lr")

    @staticmethod
    def prepare(h, t):
        return scalars(
            eta_minus=h.eta_minus,
            eta_plus=h.eta_plus,
            step_min=h.step_min,
            step_max=h.step_max,
            weight_decay=h.weight_decay,
        )

    @staticmethod
    def update(flags, s, g, p, prev, step_size):
        g = g + s.weight_decay * p
        agree = sign(g) * sign(prev)
        before = where(agree < 0.0, 0.0 * step_size, step_size * sign(prev))
        step_size = where(agree > 0.0, step_size * s.eta_plus, step_size)
        step_size = where(agree < 0.0, step_size * s.eta_minus, step_size)
        step_size = maximum(where(step_size > s.step_max, s.step_max, step_size), s.step_min)
        prev = where(agree < 0.0, g * 0.0, g)
        return -(before if flags.one_late else step_size * sign(prev)), prev, step_size
