"""Beside FBGEMM's row-wise Adagrad, as its reference for tests has it."""

from __future__ import annotations

import numpy as np

from golden import Golden


class Fbgemm:
    """EXACT_ROWWISE_ADAGRAD with L2 weight decay: rowwise_adagrad() in fbgemm_gpu/codegen/genscript/optimizers.py."""

    def __init__(self, lr: float, eps: float, weight_decay: float) -> None:
        self.lr, self.eps, self.weight_decay = lr, eps, weight_decay

    def start(self, params: list[np.ndarray]) -> None:
        self.weights = [p.copy() for p in params]
        self.momentum1 = [np.zeros(p.shape[:-1]) for p in params]

    def step(self, grads: list[np.ndarray]) -> list[np.ndarray]:
        for k, (w, grad) in enumerate(zip(self.weights, grads, strict=True)):
            g = grad + self.weight_decay * w
            self.momentum1[k] += np.square(g.astype(np.float64)).sum(axis=-1) / w.shape[-1]
            multiplier = self.lr / (np.sqrt(self.momentum1[k]) + self.eps)
            w -= (multiplier[..., None] * g).astype(w.dtype)
        return self.weights


ROWS = {
    "plain": Golden(
        given := {"lr": 0.05, "eps": 1e-6, "weight_decay": 0.03},
        Fbgemm(**given),
        ((1, 1), (3, 7), (33, 32), (5, 1025), (2, 3, 5)),
    ),
}
