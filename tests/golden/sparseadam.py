"""Beside torch's SparseAdam, which takes sparse gradients alone: here, of all rows (tests/test_rows.py has few)."""

from __future__ import annotations

import numpy as np
from peers import peer

from golden import Golden
from golden.peers import Torch


class Sparse(Torch):
    """An optimizer that is handed sparse gradients."""

    def step(self, grads: list[np.ndarray]) -> list[np.ndarray]:
        torch = peer("torch")
        for p, g in zip(self.weights, grads, strict=True):
            p.grad = torch.from_numpy(g.copy()).to_sparse(1)
        self.optimizer.step()
        return [p.detach().numpy() for p in self.weights]


class Decayed(Sparse):
    """With an L2 term of λ = 0.03, which torch's has not."""

    def step(self, grads: list[np.ndarray]) -> list[np.ndarray]:
        weights = [p.detach().numpy() for p in self.weights]
        return super().step([g + 0.03 * w for g, w in zip(grads, weights, strict=True)])


ROWS = {
    "plain": Golden(
        given := {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6}, Sparse("torch.optim", "SparseAdam", **given)
    ),
    "decayed": Golden({**given, "weight_decay": 0.03}, Decayed("torch.optim", "SparseAdam", **given)),
}
