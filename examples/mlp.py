"""A multilayer perceptron on handwritten digits: AdamW, warmup then cosine, weight decay on the weight matrices only.

Data: scikit-learn's digits, 1797 images of 8 × 8 pixels. Layer k: z = a W + b, a = ReLU(z); softmax on the last one.
"""

import hashlib
from itertools import pairwise

import numpy as np
from sklearn.datasets import load_digits

import fastupdate as fu

SIZES, EPOCHS, BATCH = (64, 256, 128, 10), 12, 32


def load(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Images and labels to train on, then a fifth of all to test on; pixels between 0 and 1."""
    X, y = load_digits(return_X_y=True)
    test, train = np.split(rng.permutation(len(y)), [len(y) // 5])
    X = (X / 16).astype(np.float32)
    return X[train], y[train], X[test], y[test]


def make_layers(sizes: tuple[int, ...], rng: np.random.Generator, dtype=np.float32) -> list[dict]:
    """Weights with standard deviation √(2 / inputs) (He et al. 2015, eq. 10), biases zero."""
    weights = [rng.normal(0, np.sqrt(2 / m), (m, n)).astype(dtype) for m, n in pairwise(sizes)]
    return [{"weight": W, "bias": np.zeros(W.shape[1], dtype)} for W in weights]


def forward(layers: list[dict], X: np.ndarray) -> list[np.ndarray]:
    """The input, the activations, and last the logits."""
    activations = [X]
    for layer in layers[:-1]:
        activations.append(np.maximum(activations[-1] @ layer["weight"] + layer["bias"], 0))
    return [*activations, activations[-1] @ layers[-1]["weight"] + layers[-1]["bias"]]


def cross_entropy(logits: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean of −ln softmax(logits)[y], and its gradient by the logits: (softmax − one-hot) / n."""
    one_hot = np.eye(logits.shape[1], dtype=logits.dtype)[y]
    logits = logits - logits.max(axis=1, keepdims=True)  # the same softmax, and exp cannot overflow
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -np.sum(one_hot * log_p) / len(y), (np.exp(log_p) - one_hot) / len(y)


def loss_and_gradients(layers: list[dict], X: np.ndarray, y: np.ndarray) -> tuple[float, list[dict]]:
    """Backpropagation: from ∂L/∂z of a layer, dz, to its weights, and to the layer below."""
    activations, grads = forward(layers, X), []
    loss, dz = cross_entropy(activations[-1], y)
    for layer, a in zip(reversed(layers), reversed(activations[:-1]), strict=True):
        grads.insert(0, {"weight": a.T @ dz, "bias": dz.sum(axis=0)})
        dz = (dz @ layer["weight"].T) * (a > 0)  # ReLU passes on what it let through
    return loss, grads


def accuracy(logits: np.ndarray, y: np.ndarray) -> float:
    return np.mean(logits.argmax(axis=1) == y)


def main() -> None:
    rng = np.random.default_rng(0)
    X, y, X_test, y_test = load(rng)
    layers, batches = make_layers(SIZES, rng), len(y) // BATCH
    lr = fu.schedules.warmup(fu.schedules.cosine(3e-3, steps=(EPOCHS - 2) * batches), steps=2 * batches)
    opt = fu.AdamW(layers, lr=lr, weight_decay=0.1, groups=[{"params": "*bias", "weight_decay": 0}])
    print("epoch     lr      loss  test accuracy")
    for epoch in range(1, EPOCHS + 1):
        losses = []
        for batch in rng.permutation(len(y))[: batches * BATCH].reshape(batches, BATCH):
            loss, grads = loss_and_gradients(layers, X[batch], y[batch])
            report = opt.step(grads)
            losses.append(loss)
        print(f"{epoch:5}  {report.lr:.5f}  {np.mean(losses):.4f}  {accuracy(forward(layers, X_test)[-1], y_test):.1%}")
    weights = b"".join(p.tobytes() for layer in layers for p in layer.values())
    print("sha256 of the weights:", hashlib.sha256(weights).hexdigest()[:16])


if __name__ == "__main__":
    main()
