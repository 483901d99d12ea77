"""The same optimizer in host memory and on the stand-in's device."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import assert_same_bits, random_arrays
from device_arrays import FakeArray

import fastupdate as fu
from fastupdate.arrays import device

SIZES = [5, 1024, 1500]
OTHER_STREAM = 77


def params() -> list[np.ndarray]:
    return random_arrays(1, SIZES, np.float32)


def grads(k: int = 0) -> list[np.ndarray]:
    return random_arrays(2 + k, SIZES, np.float32, spread=1.0)


POISONED = [1, 2, 4]  # steps whose gradients hold a NaN


def poisoned(k: int, which: list[int] = POISONED) -> list[np.ndarray]:
    arrays = grads(k)
    if k in which:
        arrays[1][7] = np.nan
    return arrays


def on_device(arrays: list[np.ndarray], **kwargs: Any) -> list[FakeArray]:
    return [FakeArray(a, **kwargs) for a in arrays]


def pair(**options: Any) -> tuple[Any, Any]:
    """The same optimizer in host memory and on the device."""
    options = {"lr": 0.01, "weight_decay": 0.1, **options}
    return fu.AdamW(params(), **options), fu.AdamW(on_device(params()), **options)


def assert_alike(host: Any, there: Any) -> None:
    assert there.step_count == host.step_count
    for a, b in zip(host.stepper.items, there.stepper.items, strict=True):
        for (x, name), (y, _) in zip(a.arrays(), b.arrays(), strict=True):
            assert_same_bits(device.on_host(y), x, name)
