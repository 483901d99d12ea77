"""SGDP."""

from fastupdate.rules.adamp import Projected
from fastupdate.rules.rule import BELOW_ONE, FRACTION, NON_NEGATIVE, POSITIVE, Flag, Hyper, State, scalars
from fastupdate.rules.scalar import where


class SGDP(Projected):
    r"""SGDP: momentum without the part of its step along weights whose length means nothing, as `timm.optim.SGDP`.

        b ← μb + (1 − dampening)·∇L
        u = b, or ∇L + μb with nesterov
        u ← u − w·(u·w)/‖w‖², q = wd_ratio, unit by unit, if |cos(∇L, w)| < δ/√n in every one (a slice along the first
            axis, of n elements); or else of the tensor, if it is so there; otherwise, and of vectors, u stays, q = 1
        w ← w − αλq/(1 − μ)·w − αu

    Source: Heo et al. (ICLR 2021), arXiv:2006.08217, algorithm 1, and the authors' code for the decay. timm's momentum
    is 0.
    """

    lr = Hyper(0.1, NON_NEGATIVE, "learning rate α")
    momentum = Hyper(0.9, BELOW_ONE, "μ, how much of the buffer stays from step to step")
    dampening = Hyper(0.0, FRACTION, "how much of the gradient stays out of the buffer")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ: weights shrink by αλq/(1 − μ) of themselves")
    eps = Hyper(1e-8, POSITIVE, "ε, added to lengths")
    delta = Hyper(0.1, NON_NEGATIVE, "δ, below which √n·|cos| is that of weights without a scale")
    wd_ratio = Hyper(0.1, NON_NEGATIVE, "q where the step is projected; timm's factory has 0.01")
    decoupled_decay = True
    own_decay = True

    nesterov = Flag("look ahead along the buffer")

    b = State("momentum buffer", role="momentum")
    unit_near = State("√n·|cos| of a unit", per="unit")
    unit_along = State("how much of the weights was in the last step of a unit", per="unit")
    near = State("√n·|cos| of the tensor", per="tensor")
    along = State("how much of the weights was taken out of the last step as a whole", per="tensor")
    by_unit = State("1 if it was taken out unit by unit", per="tensor")
    ratio = State("q in the last step", per="tensor")
    axes = State("how many axes the tensor has", per="tensor", start="ndim")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr,
            momentum=h.momentum,
            share=1 - h.dampening,
            eps=h.eps,
            shrink=h.lr * h.weight_decay / (1 - h.momentum),
            delta=h.delta,
            wd_ratio=h.wd_ratio,
        )

    @staticmethod
    def measure(flags, s, g, p, b, unit_near, unit_along, near, along, by_unit, ratio, axes):
        b = s.momentum * b + s.share * g
        u = g + s.momentum * b if flags.nesterov else b
        return g * p, g * g, p * p, u * p, b

    @staticmethod
    def measure_2(flags, s, g, p, b, unit_near, unit_along, near, along, by_unit, ratio, axes):
        return where(unit_near < s.delta, 0.0, 1.0 + unit_near), b

    @staticmethod
    def update(flags, s, g, p, b, unit_near, unit_along, near, along, by_unit, ratio, axes):
        u = g + s.momentum * b if flags.nesterov else b
        return -(s.shrink * ratio * p) - s.lr * (u - p * where(by_unit > 0.0, unit_along, along)), b
