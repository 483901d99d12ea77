"""An optimizer of fastupdate.torch and one of torch's, on parameters of the same values."""

from __future__ import annotations

from typing import Any

from cases import Case
from tolerances import PEER, Drift
from torch_cases import arrays_of, hand_over, ours, parameters, tensors, theirs

ADAMW = Case("adamw", "", {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.3})


class Pair:
    """An optimizer of ours and one of torch's, on parameters of the same values."""

    def __init__(self, case: Case = ADAMW, make: Any = None, **options: Any) -> None:
        self.params, self.others = parameters(1), parameters(1)
        make = make or (lambda build, params: build(case, params, **options))
        self.ours, self.theirs = make(ours, self.params), make(theirs, self.others)
        self.drifts = [Drift(a) for a in arrays_of(self.others)]

    @property
    def both(self) -> list[tuple[Any, list[Any]]]:
        return [(self.ours, self.params), (self.theirs, self.others)]

    def step(self, seed: int, leave_out: tuple[int, ...] = (), **arguments: Any) -> None:
        grads = [None if k in leave_out else g for k, g in enumerate(tensors(2 + seed))]
        for optimizer, params in self.both:
            hand_over(params, grads)
            optimizer.step(**arguments)
        self.compare()

    def compare(self) -> None:
        for drift, p, q in zip(self.drifts, self.params, self.others, strict=True):
            drift.compare(p.detach().numpy(), q.detach().numpy())
        assert max(drift.worst for drift in self.drifts) <= PEER
