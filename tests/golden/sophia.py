"""Beside optax' and pytorch_optimizer's Sophia without curvature, ε in its place; with it in tests/test_sophia.py."""

from golden import Golden
from golden.peers import Optax, Torch

SHARED = {"lr": 0.02, "beta1": 0.8, "eps": 3.0, "weight_decay": 0.3}


def nothing(optax):
    """Estimates the curvature as 0."""
    return optax.GradientTransformation(
        lambda params: optax.EmptyState(), lambda g, s, p=None: (optax.tree.zeros_like(g), s)
    )


ROWS = {
    "optax": Golden(
        SHARED | {"bias_correction": True, "rho": 0.7},
        Optax(
            lambda optax: optax.contrib.sophia(
                0.02, b1=0.8, eps=3.0, weight_decay=0.3, clip_threshold=0.7, hessian_diagonal_fn=nothing(optax)
            )
        ),
    ),
    "pytorch_optimizer": Golden(
        SHARED | {"rho": 0.5},
        Torch(
            "pytorch_optimizer",
            "SophiaH",
            before=lambda opt: opt.param_groups[0].update(step=1),  # in the first step it asks for the curvature
            lr=0.02,
            betas=(0.8, 0.9),
            eps=3.0,
            weight_decay=0.3,
            p=0.5,
            update_period=10**6,
        ),
    ),
}
