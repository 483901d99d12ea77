"""An optimizer with a small file, what a state holds, and both ways in which a file holds arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import random_arrays

import fastupdate as fu
from fastupdate.saving import file


@pytest.fixture(params=[file.TOGETHER, 2], ids=["", "packed"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which arrays lie in a file: each for itself, and packed as those of long lists are."""
    monkeypatch.setattr(file, "TOGETHER", request.param)


def make(seed: int = 0, **options: Any) -> fu.Optimizer:
    """An optimizer after two steps, with a small file."""
    w, b = random_arrays(seed, [12, 3], np.float32)
    params = {"w": w.reshape(3, 4).T, "b": b.astype(np.float64)}
    opt = fu.Adam(params, **options)
    for k in (1, 2):
        opt.step({name: np.full(a.shape, k, a.dtype) for name, a in params.items()})
    return opt


def content(state: dict[str, Any]) -> Any:
    arrays = {key: (a.dtype.str, a.shape, a.tobytes()) for key, a in state["arrays"].items()}
    return {**state, "arrays": dict(sorted(arrays.items()))}
