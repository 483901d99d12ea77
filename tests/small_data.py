"""Data that small networks are trained on: what is to be told apart, and by what."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Data(NamedTuple):
    x: np.ndarray
    y: np.ndarray


def points(seed: int, scale: float = 1.0, noise: float = 0.0, n: int = 400, inputs: int = 20, classes: int = 5) -> Data:
    """Classes that are linear in the inputs, but for a share of labels that are noise."""
    rng = np.random.default_rng(100 + seed)
    x = rng.standard_normal((n, inputs)).astype(np.float32)
    y = (x @ rng.standard_normal((inputs, classes))).argmax(axis=1)
    y = np.where(rng.random(n) < noise, rng.integers(classes, size=n), y)
    return Data(scale * x, y)


def images(seed: int) -> Data:
    """8 × 8, dark but for a bright patch whose place is the class."""
    rng = np.random.default_rng(100 + seed)
    y = rng.integers(4, size=300)
    x = 0.3 * rng.standard_normal((300, 8, 8, 1)).astype(np.float32)
    for image, label in zip(x, y, strict=True):
        image[4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 1
    return Data(x, y)


def texts(seed: int) -> Data:
    """Ten words of 200, seldom ones among them; the class is the most frequent topic."""
    rng = np.random.default_rng(100 + seed)
    topic = rng.integers(4, size=200)
    words = np.minimum(rng.zipf(1.3, (500, 10)) - 1, 199)
    votes = np.array([[(topic[text] == k).sum() for k in range(4)] for text in words])
    return Data(words, votes.argmax(axis=1))


def sequences(seed: int, length: int = 12) -> Data:
    """The class is that of the largest of four sums."""
    x = np.random.default_rng(100 + seed).standard_normal((400, length, 4)).astype(np.float32)
    return Data(x, x.sum(axis=1).argmax(axis=1))
