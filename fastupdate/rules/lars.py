"""LARS."""

from fastupdate.rules.rule import BELOW_ONE, NON_NEGATIVE, Flag, Hyper, State, Sum, scalars
from fastupdate.rules.scalar import sqrt, where


class Lars:
    r"""LARS: momentum whose step is in each tensor a given share of its weights' length, as `timm.optim.Lars`.

        q ← η·‖w‖/(‖∇L‖ + λ‖w‖ + ε), the norms being of the tensor; 1 where either is 0, or where λ is 0
        b ← μb + q·(∇L + λw)
        w ← w − αb, or w − α·(q·(∇L + λw) + μb) with nesterov
        trust_clip:     min(q/α, 1) in place of q, so that no step is longer than momentum's own (LARC)
        always_adapt:   q also where λ is 0, as the paper and optax
        lr_in_buffer:   b ← μb + α·q·(∇L + λw), w ← w − b, as there: while α is constant, it is the same
        joint_norm:     ‖∇L + λw‖ in place of ‖∇L‖ + λ‖w‖, as optax

    Source: You, Gitman & Ginsburg, arXiv:1708.03888, algorithm 1. timm's momentum is 0.
    """

    lr = Hyper(1.0, NON_NEGATIVE, "learning rate α")
    momentum = Hyper(0.9, BELOW_ONE, "μ, how much of the buffer stays from step to step")
    weight_decay = Hyper(0.0, NON_NEGATIVE, "λ, of the L2 penalty")
    trust = Hyper(1e-3, NON_NEGATIVE, "trust coefficient η: length of a step, in lengths of the weights")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to the norm of the gradient")
    own_decay = True

    nesterov = Flag("look ahead along the buffer")
    trust_clip = Flag("let no step be longer than it would be without q")
    always_adapt = Flag("adapt tensors without weight decay too")
    lr_in_buffer = Flag("have the learning rate of each gradient in the buffer, which stays as it was")
    joint_norm = Flag("take the norm of the gradient with its L2 penalty, not the sum of theirs")

    b = State("momentum buffer", role="momentum")
    ratio = State("q in the last step", per="tensor", start=1.0)

    squares = Sum("‖∇L‖²", per="tensor")
    weight_squares = Sum("‖w‖²", per="tensor")

    @staticmethod
    def prepare(h, t):
        return scalars(
            lr=h.lr, momentum=h.momentum, weight_decay=h.weight_decay, trust=h.trust, eps=h.eps,
        )  # fmt: skip

    @staticmethod
    def measure(flags, s, g, p, b, ratio):
        if flags.joint_norm:
            g = g + s.weight_decay * p
        return g * g, p * p, b

    @staticmethod
    def settle_tensor(flags, s, n, squares, weight_squares, ratio):
        length = sqrt(weight_squares)
        decayed = sqrt(squares) if flags.joint_norm else sqrt(squares) + s.weight_decay * length
        ratio = s.trust * length / (decayed + s.eps)
        ratio = where(weight_squares > 0.0, ratio, 1.0)
        ratio = where(squares > 0.0, ratio, 1.0)
        if flags.trust_clip:
            ratio = where(ratio < s.lr, ratio / s.lr, 1.0)
        if not flags.always_adapt:
            ratio = where(s.weight_decay > 0.0, ratio, 1.0)
        return ratio

    @staticmethod
    def update(flags, s, g, p, b, ratio):
        g = ratio * (g + s.weight_decay * p)
        if flags.lr_in_buffer:
            g = s.lr * g
        b = s.momentum * b + g
        step = g + s.momentum * b if flags.nesterov else b
        return -(step if flags.lr_in_buffer else s.lr * step), b
