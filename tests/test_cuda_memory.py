"""A device without memory for a step: that is an error, nothing of it is done, and the next is as if none was tried."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest
from cases import arrays_of
from cuda_pairs import assert_alike, grads, on_device, pair
from device_arrays import ON_A_DEVICE, STREAM

import fastupdate as fu
from fastupdate.arrays import device

pytestmark = pytest.mark.skipif(ON_A_DEVICE, reason="a real device has memory")

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "judged": {"clip_norm": 1.0, "nonfinite": "skip", "monitor": True},
    "units": {"clip_unit_norm": 0.1, "ema_decay": 0.9},
}


def look(opt: fu.Optimizer) -> Any:
    """How many steps were taken, and all bytes."""
    kept = {kind: [device.on_host(a).tobytes() for a in arrays] for kind, arrays in arrays_of(opt).items()}
    return opt.step_count, kept


def until_it_succeeds(opt: fu.Optimizer, shim: Any, call: Callable[[], Any]) -> int:
    """Tries a call with its first allocation failing, its second …; how many times that was an error."""
    for n in count():
        before = look(opt)
        shim.fail_allocation(n)
        try:
            call()
        except MemoryError:
            assert look(opt) == before
        else:
            return n
        finally:
            shim.fail_allocation(-1)
    raise AssertionError


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_step_without_memory(options: dict[str, Any], shim: Any) -> None:
    host, there = pair(**options)
    failed = 0
    for k in range(4):
        every_other = [np.stack([g] * (2 + k), axis=-1)[..., 0] for g in grads(k)]  # a layout of its own in each step
        given = on_device(every_other)
        host.step(every_other)
        failed += until_it_succeeds(there, shim, lambda given=given: there.step(given))
    assert failed > 3
    assert_alike(host, there)


def test_a_captured_step_without_memory(shim: Any) -> None:
    host, there = pair(**OPTIONS["judged"])
    buffers = on_device(grads())
    shim.begin_capture(STREAM)
    there.step(buffers)
    graph, failed = shim.end_capture(STREAM), 0
    kept = []
    for _ in range(4):
        host.step([b.get() for b in buffers])
        failed += until_it_succeeds(there, shim, lambda: kept.append(there.before_replay()))
        graph(STREAM)
    assert failed > 3
    assert_alike(host, there)
