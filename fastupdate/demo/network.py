"""A multilayer perceptron in plain NumPy: what the optimizers are given to train.

Textbook code on purpose. Parameters and gradients are float32 arrays that are allocated once and written in place from
then on, so an optimizer may keep their addresses (`opt.bind(network.grads)`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


class MLP:
    """Fully connected layers with ReLU between them and a softmax cross-entropy on top.

    `sizes` is (inputs, hidden..., classes). Layer k (from 1) owns `params["wk"]`, of shape (sizes[k-1], sizes[k]), and
    `params["bk"]`, of shape (sizes[k],); `grads` has the same keys, shapes and dtype (float32). Weights start as
    He et al. (2015, eq. 10) propose, normal with standard deviation sqrt(2 / inputs), and biases at zero.
    """

    def __init__(self, sizes: Sequence[int], rng: np.random.Generator) -> None:
        self.depth = len(sizes) - 1
        self.params: dict[str, Floats] = {}
        for k, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
            spread = np.float32(np.sqrt(2.0 / fan_in))
            self.params[f"w{k}"] = spread * rng.standard_normal((fan_in, fan_out), dtype=np.float32)
            self.params[f"b{k}"] = np.zeros(fan_out, np.float32)
        self.grads: dict[str, Floats] = {name: np.zeros_like(p) for name, p in self.params.items()}

    def forward(self, x: Floats) -> list[Floats]:
        """What every layer puts out for the mini-batch `x` (n, inputs): `x` itself, each hidden layer, the logits."""
        outputs = [x]
        for k in range(1, self.depth + 1):
            z = outputs[-1] @ self.params[f"w{k}"] + self.params[f"b{k}"]
            outputs.append(np.maximum(z, 0.0) if k < self.depth else z)
        return outputs

    def backward(self, outputs: Sequence[Floats], d_logits: Floats) -> None:
        """Write the gradient of every parameter into `grads`, given the loss's gradient by the logits (n, classes)."""
        d_z = d_logits
        for k in range(self.depth, 0, -1):
            np.matmul(outputs[k - 1].T, d_z, out=self.grads[f"w{k}"])
            np.sum(d_z, axis=0, out=self.grads[f"b{k}"])
            if k > 1:  # the ReLU below passes on only what it let through; nobody needs the gradient of the images
                d_z = (d_z @ self.params[f"w{k}"].T) * (outputs[k - 1] > 0.0)

    def compute_gradients(self, x: Floats, labels: Labels, of: int | None = None) -> float:
        """Forward and backward on one mini-batch, (n, inputs) and (n,); fills `grads` and returns the mean loss.

        of: how many images the mean is over, if these are a piece of a mini-batch
        """
        outputs = self.forward(x)
        loss, d_logits = softmax_cross_entropy(outputs[-1], labels, of)
        self.backward(outputs, d_logits)
        return loss

    def loss(self, x: Floats, labels: Labels) -> float:
        """The mean loss on `x` (n, inputs) and `labels` (n,); `grads` stay as they are."""
        return softmax_cross_entropy(self.forward(x)[-1], labels)[0]

    def accuracy(self, x: Floats, labels: Labels) -> float:
        """The share of right answers, between 0 and 1, on `x` (n, inputs) and `labels` (n,)."""
        return float(np.mean(self.forward(x)[-1].argmax(axis=1) == labels))


def softmax_cross_entropy(logits: Floats, labels: Labels, of: int | None = None) -> tuple[float, Floats]:
    """Mean of -log softmax(logits)[label] over n rows; its gradient by the logits; both arrays (n, classes) float32.

    of: how many rows the mean is over, if these are some of them
    """
    of = of or len(labels)
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)  # the same softmax, and exp cannot overflow
    exp = np.exp(shifted)
    total = exp.sum(axis=1, keepdims=True)
    loss = float(np.sum(np.log(total[:, 0]) - shifted[rows, labels]) / of)

    d_logits = exp / total
    d_logits[rows, labels] -= 1.0
    d_logits /= of
    return loss, d_logits
