"""Arrays of several shapes, and errors after which every byte is as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import fingerprint

import fastupdate as fu

SHAPES = [(5,), (3, 4), (), (7, 2, 2), (40,)]


def tensors(seed: int = 0, dtype: Any = np.float32) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.array(rng.standard_normal(shape) + 3, dtype) for shape in SHAPES]


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def swapped(a: np.ndarray) -> np.ndarray:
    return a.astype(a.dtype.newbyteorder())


def misaligned(a: np.ndarray) -> np.ndarray:
    raw = np.zeros(a.nbytes + 1, np.uint8)
    b = raw[1:].view(a.dtype).reshape(a.shape)
    b[...] = a
    assert not b.flags.aligned
    return b


def strided(a: np.ndarray) -> np.ndarray:
    """The same values among strangers."""
    wide = np.full((*a.shape, 3), 77.0, a.dtype)
    wide[..., 1] = a
    return wide[..., 1]


def raises_unchanged(opt: fu.Optimizer, grads: Any, kind: type[Exception], words: str, **arguments: Any) -> None:
    """The step fails with these words and leaves everything as it was; after it, a good step works."""
    everything = [g for g in grads if isinstance(g, np.ndarray)] if isinstance(grads, list) else []
    before = fingerprint(opt, *everything)
    with pytest.raises(kind, match=words) as caught:
        opt.step(grads, **arguments)
    assert fingerprint(opt, *everything) == before
    assert str(caught.value).startswith(f"[{opt.rule.name}] ")
