"""Steps in CUDA graphs, on the stand-in: what is replayed, reported and refused. No GPU is needed."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from cuda_pairs import OTHER_STREAM, assert_alike, grads, on_device, pair, params, poisoned
from device_arrays import STREAM

import fastupdate as fu
from fastupdate import schedules
from fastupdate.arrays import frameworks

pytestmark = pytest.mark.usefixtures("shim")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_norm": 1.0, "nonfinite": "skip", "monitor": True},
        {"lookahead": (3, 0.5), "ema_decay": 0.9, "clip_tensor_norm": 0.5},
        {"clip_unit_norm": 0.05},
    ],
    ids=["plain", "skip", "lookahead", "units"],
)
@pytest.mark.parametrize("warm", [0, 2], ids=["cold", "warm"])
def test_a_captured_step_replays(options, warm, shim):
    """Learning rate, step count and synchronisation change from launch to launch; eager steps may come between."""
    host, there = pair(lr=schedules.cosine(0.1, 20), **options)
    buffers = on_device(grads())

    def both(k: int, step: Any) -> None:
        for buffer, values in zip(buffers, poisoned(k) if "nonfinite" in options else grads(k), strict=True):
            buffer.set(values)
        expected, actual = host.step([b.get() for b in buffers]), step()
        assert (actual.lr, actual.step) == (expected.lr, expected.step)
        assert repr(actual) == repr(expected)

    for k in range(warm):
        both(k, lambda: there.step(buffers))
    shim.begin_capture(STREAM)
    there.step(buffers)
    graph = shim.end_capture(STREAM)
    assert there.step_count == host.step_count

    def replay() -> Any:
        report = there.before_replay()
        graph(STREAM)
        return report

    for k in range(warm, 7):
        both(k, replay)
    both(7, lambda: there.step(on_device([b.get() for b in buffers])))
    both(8, replay)
    assert_alike(host, there)


def test_captured_steps_are_not_waited_for(shim):
    """Nor for whether those before were skipped."""
    gc.collect()
    options = {"nonfinite": "skip", "lookahead": (3, 0.5), "lr": schedules.cosine(0.1, 20)}
    host, there = pair(**options)
    gradients = [poisoned(k, [0, 2]) for k in range(6)]
    buffers, sources = on_device(grads()), [on_device(g) for g in gradients]
    shim.begin_capture(STREAM)
    there.step(buffers)
    graph = shim.end_capture(STREAM)
    shim.synchronize(STREAM)
    pairs, waiting = [], 0
    for k in range(6):
        for buffer, source in zip(buffers, sources[k], strict=True):
            shim.enqueue_copy(buffer.address, source.address, buffer.dtype.itemsize * buffer.shape[0], STREAM)
        pairs.append((host.step(gradients[k]), there.before_replay()))
        graph(STREAM)
        assert shim.pending(STREAM) > waiting
        waiting = shim.pending(STREAM)
    for expected, actual in pairs:
        assert repr(actual) == repr(expected)
    assert_alike(host, there)


@pytest.fixture
def current(monkeypatch):
    """The stream that is current, as in a framework that has one: to be appended to, and popped."""
    streams = [STREAM]
    monkeypatch.setattr(frameworks.Exported, "stream", lambda _self, _device: streams[-1])
    return streams


LOOKED_AT = {
    "norm": ({"clip_norm": 1.0}, lambda report: report.grad_norm),
    "skips": ({"nonfinite": "skip"}, lambda report: report.skipped),
    "sums": ({"monitor": True}, lambda report: report.tensors["grad_norm"].tolist()),
}
looked_at = pytest.mark.parametrize(("options", "look"), LOOKED_AT.values(), ids=LOOKED_AT)


def to_skip(options: dict[str, Any]) -> list[np.ndarray]:
    """Gradients of a step that is skipped, where any is."""
    return poisoned(1) if "nonfinite" in options else grads(1)


def captured(opt: Any, gradients: list[Any], stream: int, shim: Any) -> Any:
    shim.begin_capture(stream)
    try:
        opt.step(gradients)
    finally:
        graph = shim.end_capture(stream)
    return graph


@looked_at
def test_a_replay_is_looked_at_from_another_stream(options, look, shim, current):
    """Its figures are on the stream that its graph was launched on, whatever is current when somebody looks."""
    host, there = pair(**options)
    buffers = on_device(to_skip(options))
    current.append(OTHER_STREAM)
    graph = captured(there, buffers, OTHER_STREAM, shim)
    for _ in range(2):
        report = there.before_replay()
        graph(OTHER_STREAM)
        current.append(STREAM)
        assert look(report) == look(host.step(to_skip(options)))
        assert there.step_count == host.step_count
        current.pop()
    report = there.before_replay()
    graph(OTHER_STREAM)
    current.append(STREAM)
    there.step(on_device(grads()))  # which overwrites what the graph has found
    assert look(report) == look(host.step(to_skip(options)))
    host.step(grads())
    assert_alike(host, there)


@looked_at
def test_a_replay_is_looked_at_before_its_launch(options, look, shim):
    """That is an error, and nothing is made of what lay there."""
    host, there = pair(**options)
    graph = captured(there, on_device(to_skip(options)), STREAM, shim)
    report = there.before_replay()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="has not been launched since before_replay"):
            look(report)
    if "nonfinite" in options:
        with pytest.raises(RuntimeError, match="has not been launched since before_replay"):
            there.step_count  # noqa: B018
    graph(STREAM)
    assert look(report) == look(host.step(to_skip(options)))
    assert_alike(host, there)


@looked_at
def test_a_replay_that_is_never_launched(options, look, shim):
    """Its report says so; where it is asked which steps were taken, it is none of them."""
    _, there = pair(**options)
    graph = captured(there, on_device(to_skip(options)), STREAM, shim)
    lost = there.before_replay()
    report = there.before_replay()
    graph(STREAM)
    with pytest.raises(RuntimeError, match="has not been launched since before_replay"):
        look(lost)
    assert look(report) == look(pair(**options)[0].step(to_skip(options)))
    assert there.step_count == (0 if "nonfinite" in options else 2)


def test_gradients_that_name_no_stream_are_not_waited_for(shim):
    """So that they may be read in a capture."""
    assert not shim.pending(OTHER_STREAM)
    host, there = pair()[0], fu.AdamW(on_device(params(), stream=OTHER_STREAM), lr=0.01, weight_decay=0.1)
    graph = captured(there, on_device(grads(), stream=None), OTHER_STREAM, shim)
    there.before_replay()
    graph(OTHER_STREAM)
    host.step(grads())
    assert_alike(host, there)


def test_what_cannot_be_captured(shim):
    host, there = pair()
    with pytest.raises(TypeError, match="before_replay: expected a step on the backend 'cuda'"):
        host.before_replay()
    with pytest.raises(RuntimeError, match="no step of this optimizer was captured"):
        there.before_replay()
    gradients = on_device(grads())
    shim.begin_capture(STREAM)
    try:
        with pytest.raises(RuntimeError, match="micro-batches cannot be captured"):
            there.accumulate(gradients)
        report = there.step(gradients)
    finally:
        shim.end_capture(STREAM)
    assert report.skipped is False
    assert there.step_count == 0
    with pytest.raises(RuntimeError, match="cannot be captured"):
        captured(fu.SGD(on_device(params()), nonfinite="raise"), gradients, STREAM, shim)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}], ids=["plain", "judged"])
@pytest.mark.parametrize("rule", [fu.Muon, fu.SOAP], ids=["muon", "soap"])
def test_products_of_matrices_cannot_be_captured(rule, options, shim, monkeypatch):
    """The array library waits for the device; it is refused before anything is queued."""
    monkeypatch.setattr(frameworks.Exported, "MULTIPLIES", True)
    [matrix] = on_device([np.ones((3, 2), np.float32)])
    there = rule([matrix], others=None, **options)
    with pytest.raises(RuntimeError, match="cannot be captured"):
        captured(there, on_device([np.ones((3, 2), np.float32)]), STREAM, shim)
    with pytest.raises(TypeError, match="of a rule that multiplies no matrices"):
        there.before_replay()
    assert there.step_count == 0
    assert (matrix.get() == 1).all()
