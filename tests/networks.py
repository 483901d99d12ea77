"""Small networks in plain NumPy, written to go wrong in known ways."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]

# Each: the function, and its slope as a function of its value.
ACTIVATIONS: dict[str, Any] = {
    "relu": (lambda z: np.maximum(z, 0), lambda h: (h > 0).astype(h.dtype)),
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda h: h * (1 - h)),
    "tanh": (np.tanh, lambda h: 1 - h * h),
}


def softmax_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean loss, and its gradient by the logits."""
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1)
    gradient = np.exp(shifted) / total[:, None]
    gradient[rows, labels] -= 1
    return float(np.mean(np.log(total) - shifted[rows, labels])), gradient / np.float32(len(labels))


class MLP:
    """Layers wk, bk (from k = 1), weights of standard deviation spread / √inputs, hidden biases `bias`; float32."""

    def __init__(self, sizes: tuple[int, ...], activation: str, spread: float, bias: float = 0.0) -> None:
        rng = np.random.default_rng(0)
        self.function, self.slope = ACTIVATIONS[activation]
        self.depth = len(sizes) - 1
        self.params: Arrays = {}
        for k, (i, o) in enumerate(pairwise(sizes), start=1):
            self.params[f"w{k}"] = (spread / np.sqrt(i) * rng.standard_normal((i, o))).astype(np.float32)
            self.params[f"b{k}"] = np.full(o, bias if k < self.depth else 0.0, np.float32)

    def gradients(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, Arrays]:
        p, h = self.params, [x]
        for k in range(1, self.depth + 1):
            z = h[-1] @ p[f"w{k}"] + p[f"b{k}"]
            h.append(self.function(z) if k < self.depth else z)
        loss, d = softmax_cross_entropy(h[-1], labels)
        grads = {}
        for k in range(self.depth, 0, -1):
            grads[f"w{k}"], grads[f"b{k}"] = h[k - 1].T @ d, d.sum(axis=0)
            d = (d @ p[f"w{k}"].T) * self.slope(h[k - 1])
        return loss, {name: grads[name] for name in p}


class RNN:
    """h ← tanh(x·wx + h·wh + bh) over the steps of a sequence, and a softmax of h·wo + bo at the end; float32."""

    def __init__(self, inputs: int, hidden: int, classes: int, spread: float) -> None:
        rng = np.random.default_rng(0)
        shapes = {"wx": (inputs, hidden), "wh": (hidden, hidden), "wo": (hidden, classes)}
        w = {name: rng.standard_normal(shape) / np.sqrt(shape[0]) for name, shape in shapes.items()}
        w |= {"wh": spread * w["wh"], "bh": np.zeros(hidden), "bo": np.zeros(classes)}
        self.params: Arrays = {name: w[name].astype(np.float32) for name in ("wx", "wh", "bh", "wo", "bo")}

    def gradients(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, Arrays]:
        """x: (sequences, steps, inputs)."""
        p, h = self.params, [np.zeros((len(x), len(self.params["bh"])), np.float32)]
        for t in range(x.shape[1]):
            h.append(np.tanh(x[:, t] @ p["wx"] + h[-1] @ p["wh"] + p["bh"]))
        loss, d = softmax_cross_entropy(h[-1] @ p["wo"] + p["bo"], labels)
        grads = {name: np.zeros_like(w) for name, w in p.items()}
        grads["wo"], grads["bo"] = h[-1].T @ d, d.sum(axis=0)
        d = d @ p["wo"].T
        for t in range(x.shape[1] - 1, -1, -1):
            d = d * (1 - h[t + 1] ** 2)
            grads["wx"] += x[:, t].T @ d
            grads["wh"] += h[t].T @ d
            grads["bh"] += d.sum(axis=0)
            d = d @ p["wh"].T
        return loss, grads
