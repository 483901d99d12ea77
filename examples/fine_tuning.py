"""Fine-tuning: a network pretrained on the digits 0–4 learns 5–9 from ten images of each, under a new last layer.

What the layers below it may do decides what is gained and what is forgotten: the old last layer, put back on top of
them, shows how much is left of the old task. The network is that of mlp.py.
"""

import hashlib

import numpy as np
from mlp import accuracy, forward, load, loss_and_gradients, make_layers

import fastupdate as fu

SIZES, FEW, STEPS, LR, SEEDS = (64, 128, 64, 5), 10, 300, 3e-3, 3
METHODS: dict[str, dict] = {  # what is done with the first two layers; tensors are named 0.weight, 0.bias, 1.weight, …
    "new": {"reuse": False},
    "pretrained": {},
    "second slow": {"slow": "1.*"},
    "first frozen, second slow": {"frozen": "0.*", "slow": "1.*"},
    "both frozen": {"frozen": "[01].*"},
}


def train(layers: list[dict], X: np.ndarray, y: np.ndarray, opt: fu.Optimizer, rng: np.random.Generator) -> None:
    for _ in range(STEPS):
        rows = rng.choice(len(y), 32, replace=False)
        opt.step(loss_and_gradients(layers, X[rows], y[rows])[1])


def digest(layer: dict) -> str:
    return hashlib.sha256(layer["weight"].tobytes() + layer["bias"].tobytes()).hexdigest()[:8]


def fine_tune(pretrained: list[dict], X, y, seed: int, reuse=True, frozen=None, slow=None) -> list[dict]:
    """The layers after STEPS on FEW images of each digit; slow ones have a tenth of the learning rate."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.choice(np.flatnonzero(y == digit), FEW, replace=False) for digit in range(5)])
    layers = make_layers(SIZES, rng)
    if reuse:
        layers[:2] = [{name: p.copy() for name, p in layer.items()} for layer in pretrained[:2]]
    opt = fu.AdamW(layers, lr=LR, groups=[{"params": slow, "lr_scale": 0.1}] if slow else [])
    if frozen:
        opt.freeze(frozen)
    train(layers, X[rows], y[rows], opt, rng)
    return layers


def change(layer: dict, before: dict) -> float:
    """‖Δ‖ / ‖W‖ of the weights."""
    return np.linalg.norm(layer["weight"] - before["weight"]) / np.linalg.norm(before["weight"])


def main() -> None:
    rng = np.random.default_rng(0)
    X, y, X_test, y_test = load(rng)
    old, old_test = y < 5, y_test < 5
    pretrained = make_layers(SIZES, rng)
    train(pretrained, X[old], y[old], fu.AdamW(pretrained, lr=LR), rng)
    right = accuracy(forward(pretrained, X_test[old_test])[-1], y_test[old_test])
    print(f"pretrained on 0–4: {right:.1%} of its test images right; first layer: sha256 {digest(pretrained[0])}\n")
    print("test images right                new    old   change of layer       sha256 of")
    print("first two layers:                5–9    0–4       1       2   the first layer")
    for method, options in METHODS.items():
        rows = []
        for seed in range(SEEDS):
            layers = fine_tune(pretrained, X[~old], y[~old] - 5, seed, **options)
            new_task = accuracy(forward(layers, X_test[~old_test])[-1], y_test[~old_test] - 5)
            old_task = accuracy(forward([*layers[:2], pretrained[2]], X_test[old_test])[-1], y_test[old_test])
            rows.append([new_task, old_task, *(change(layers[k], pretrained[k]) for k in (0, 1))])
        new_task, old_task, first, second = np.mean(rows, axis=0)
        print(f"{method:27} {new_task:8.1%} {old_task:6.1%} {first:7.1%} {second:7.1%}   {digest(layers[0])}")


if __name__ == "__main__":
    main()
