"""Beside pytorch_optimizer's SOAP, in the weights' type: it has QR in float32.

A gradient's own square leaves directions of which no factor knows anything, and which basis of these a library takes is
its own affair: sides that have a basis are not longer than the others. Products are summed in another order by each
library, and decompositions pass their roundings on.
"""

from typing import Any

from golden import Golden
from golden.peers import Exact

SHARED = {
    "lr": 0.02, "betas": (0.9, 0.85), "shampoo_beta": 0.8, "weight_decay": 0.3, "precondition_frequency": 3,
    "max_precondition_dim": 4000,
}  # fmt: skip
SQUARES, LONG = ((1, 1), (4, 4), (9, 9)), ((3, 8), (9, 4), (5, 5), (7, 9))
ULP = 300


def row(shapes: Any, theirs: Any = {}, ours: Any = {}, **shared: Any) -> Golden:  # noqa: B006
    arguments = SHARED | shared
    return Golden(arguments | ours, Exact("pytorch_optimizer", "SOAP", **arguments, **theirs), shapes, ulp=ULP)


ROWS = {
    "plain": row(SQUARES),
    "sides": row(LONG, max_precondition_dim=5),
    "uncorrected": row(SQUARES, {"correct_bias": False}, {"uncorrected": True}),
    "normalized": row(SQUARES, {"normalize_gradient": True}, {"normalize": True}, eps=1e-3),
}
