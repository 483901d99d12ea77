"""Small networks in plain NumPy: layers that go forward and back, losses, and the data that they learn; float32."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Loss = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]

# Each: the function, and its slope as a function of its value.
ACTIVATIONS: dict[str, Any] = {
    "relu": (lambda z: np.maximum(z, 0), lambda h: (h > 0).astype(h.dtype)),
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda h: h * (1 - h)),
    "tanh": (np.tanh, lambda h: 1 - h * h),
}


# -- losses: mean over the examples, and the gradient by the outputs --------------------------------------------------


def softmax_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1)
    gradient = np.exp(shifted) / total[:, None]
    gradient[rows, labels] -= 1
    return float(np.mean(np.log(total) - shifted[rows, labels])), gradient / np.float32(len(labels))


def hinge(scores: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Of the score (n, 1) for labels of 0 and 1."""
    sign = np.where(labels == 1, 1, -1).astype(np.float32)[:, None]
    margin = 1 - sign * scores
    return float(np.maximum(margin, 0).mean()), np.where(margin > 0, -sign, 0) / np.float32(len(labels))


def squared_error(outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    error = outputs - targets
    return float(np.square(error).mean() / 2), error / np.float32(error.size)


# -- layers: `forward` keeps what `backward` needs; `backward` leaves gradients in `grads` -----------------------------


class Layer:
    def __init__(self, **params: np.ndarray) -> None:
        self.params: Arrays = {name: np.asarray(p, np.float32) for name, p in params.items()}
        self.grads: Arrays = {}

    def forward(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def backward(self, d: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class Dense(Layer):
    """x·w + b over the last axis."""

    def __init__(self, rng: Any, inputs: int, outputs: int, spread: float = 1.0, bias: float | None = 0.0) -> None:
        w = spread / np.sqrt(inputs) * rng.standard_normal((inputs, outputs))
        super().__init__(w=w, **({} if bias is None else {"b": np.full(outputs, bias)}))

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x = x
        return x @ self.params["w"] + self.params.get("b", np.float32(0))

    def backward(self, d: np.ndarray) -> np.ndarray:
        flat = d.reshape(-1, d.shape[-1])
        self.grads = {"w": self.x.reshape(-1, self.x.shape[-1]).T @ flat, "b": flat.sum(axis=0)}
        return d @ self.params["w"].T


class Activation(Layer):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.function, self.slope = ACTIVATIONS[name]

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.h = self.function(x)
        return self.h

    def backward(self, d: np.ndarray) -> np.ndarray:
        return d * self.slope(self.h)


class BatchNorm(Layer):
    def __init__(self, units: int) -> None:
        super().__init__(scale=np.ones(units), offset=np.zeros(units))

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.deviation = np.sqrt(x.var(axis=0) + np.float32(1e-5))
        self.normal = (x - x.mean(axis=0)) / self.deviation
        return self.normal * self.params["scale"] + self.params["offset"]

    def backward(self, d: np.ndarray) -> np.ndarray:
        self.grads = {"scale": (d * self.normal).sum(axis=0), "offset": d.sum(axis=0)}
        d = d * self.params["scale"]
        return (d - d.mean(axis=0) - self.normal * (d * self.normal).mean(axis=0)) / self.deviation


class Convolution(Layer):
    """3 × 3 patches of images (n, side, side, channels), as one product of matrices."""

    def __init__(self, rng: Any, channels: int, outputs: int, spread: float = np.sqrt(2)) -> None:
        w = spread / np.sqrt(9 * channels) * rng.standard_normal((9 * channels, outputs))
        super().__init__(w=w, b=np.zeros(outputs))

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.shape, size = x.shape, x.shape[1] - 2
        places = [x[:, i : i + size, j : j + size] for i in range(3) for j in range(3)]
        self.patches = np.concatenate(places, axis=3)
        return self.patches @ self.params["w"] + self.params["b"]

    def backward(self, d: np.ndarray) -> np.ndarray:
        flat, size = d.reshape(-1, d.shape[-1]), d.shape[1]
        self.grads = {"w": self.patches.reshape(len(flat), -1).T @ flat, "b": flat.sum(axis=0)}
        dx = np.zeros(self.shape, np.float32)
        for k, part in enumerate(np.split(d @ self.params["w"].T, 9, axis=3)):
            dx[:, k // 3 : k // 3 + size, k % 3 : k % 3 + size] += part
        return dx


class Flatten(Layer):
    def forward(self, x: np.ndarray) -> np.ndarray:
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, d: np.ndarray) -> np.ndarray:
        return d.reshape(self.shape)


class Embedding(Layer):
    """Words (n, length) to vectors (n, length, units)."""

    def __init__(self, rng: Any, words: int, units: int) -> None:
        super().__init__(table=rng.standard_normal((words, units)))

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x = x
        return self.params["table"][x]

    def backward(self, d: np.ndarray) -> np.ndarray:
        self.grads = {"table": np.zeros_like(self.params["table"])}
        np.add.at(self.grads["table"], self.x, d)
        return d


class Mean(Layer):
    """Over the words of a text."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.length = x.shape[1]
        return x.mean(axis=1)

    def backward(self, d: np.ndarray) -> np.ndarray:
        return np.repeat(d[:, None] / np.float32(self.length), self.length, axis=1)


class Attention(Layer):
    """x + softmax(q·kᵀ / √units)·v over texts (n, length, units), one head."""

    def __init__(self, rng: Any, units: int) -> None:
        super().__init__(**{name: rng.standard_normal((units, units)) / np.sqrt(units) for name in "qkv"})

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x = x
        self.q, self.k, self.v = (x @ self.params[name] for name in "qkv")
        scores = self.q @ self.k.transpose(0, 2, 1) / np.float32(np.sqrt(x.shape[-1]))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        self.a = weights / weights.sum(axis=-1, keepdims=True)
        return x + self.a @ self.v

    def backward(self, d: np.ndarray) -> np.ndarray:
        da = d @ self.v.transpose(0, 2, 1)
        ds = self.a * (da - (da * self.a).sum(axis=-1, keepdims=True)) / np.float32(np.sqrt(d.shape[-1]))
        parts = {"q": ds @ self.k, "k": ds.transpose(0, 2, 1) @ self.q, "v": self.a.transpose(0, 2, 1) @ d}
        units = d.shape[-1]
        self.grads = {name: self.x.reshape(-1, units).T @ part.reshape(-1, units) for name, part in parts.items()}
        return d + sum(part @ self.params[name].T for name, part in parts.items())


class Recurrent(Layer):
    """The last of h ← tanh(x·wx + h·wh + bh) over sequences (n, steps, inputs)."""

    def __init__(self, rng: Any, inputs: int, hidden: int, spread: float) -> None:
        wx, wh = (rng.standard_normal((n, hidden)) / np.sqrt(n) for n in (inputs, hidden))
        super().__init__(wx=wx, wh=spread * wh, bh=np.zeros(hidden))

    def forward(self, x: np.ndarray) -> np.ndarray:
        p, self.x = self.params, x
        self.h = [np.zeros((len(x), len(p["bh"])), np.float32)]
        for t in range(x.shape[1]):
            self.h.append(np.tanh(x[:, t] @ p["wx"] + self.h[-1] @ p["wh"] + p["bh"]))
        return self.h[-1]

    def backward(self, d: np.ndarray) -> np.ndarray:
        self.grads = {name: np.zeros_like(w) for name, w in self.params.items()}
        for t in range(self.x.shape[1] - 1, -1, -1):
            d = d * (1 - self.h[t + 1] ** 2)
            self.grads["wx"] += self.x[:, t].T @ d
            self.grads["wh"] += self.h[t].T @ d
            self.grads["bh"] += d.sum(axis=0)
            d = d @ self.params["wh"].T
        return d


# -- networks ---------------------------------------------------------------------------------------------------------


class Network:
    """Layers, one after the other. Parameters are named after them: w1 of the first that has parameters, and so on."""

    def __init__(self, layers: list[Layer], loss: Loss = softmax_cross_entropy) -> None:
        self.layers, self.loss = layers, loss
        numbers = {id(layer): k for k, layer in enumerate((la for la in layers if la.params), start=1)}
        self.places = [(f"{name}{numbers[id(la)]}", la, name) for la in layers for name in la.params]
        self.params: Arrays = {key: layer.params[name] for key, layer, name in self.places}

    def gradients(self, x: np.ndarray, target: np.ndarray) -> tuple[float, Arrays]:
        for layer in self.layers:
            x = layer.forward(x)
        loss, d = self.loss(x, target)
        for layer in reversed(self.layers):
            d = layer.backward(d)
        return loss, {key: layer.grads[name] for key, layer, name in self.places}


def dense_network(
    sizes: tuple[int, ...],
    activation: str,
    spread: float,
    bias: float | None = 0.0,
    seed: int = 0,
    loss: Loss = softmax_cross_entropy,
) -> Network:
    """Dense layers, weights of standard deviation spread / √inputs, hidden biases `bias`, that of the output 0."""
    rng, layers = np.random.default_rng(seed), []
    for k, (i, o) in enumerate(pairwise(sizes), start=2):
        last = k == len(sizes)
        layers += [Dense(rng, i, o, spread, 0.0 if last and bias is not None else bias)]
        layers += [] if last else [Activation(activation)]
    return Network(layers, loss)


def recurrent_network(inputs: int, hidden: int, classes: int, spread: float, seed: int = 0) -> Network:
    rng = np.random.default_rng(seed)
    return Network([Recurrent(rng, inputs, hidden, spread), Dense(rng, hidden, classes)])
