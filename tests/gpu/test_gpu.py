"""The CUDA engine on a CUDA device: the bytes of the CPU engine, and what only a device has. Run by `pytest -m gpu`."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
from typing import Any

import numpy as np
import pytest
from cases import EVERY_CASE, FIRST_CASES, assert_same_bits, by_dtype, by_rule, random_arrays
from test_cuda_engine import OPTIONS, problem, report_of

import fastupdate as fu
from fastupdate import schedules
from fastupdate.arrays import device

pytestmark = pytest.mark.gpu

COMBINED = [(case, "plain") for case in EVERY_CASE] + [(case, o) for case in FIRST_CASES for o in list(OPTIONS)[1:]]
by_combination = pytest.mark.parametrize(("case", "options"), COMBINED, ids=[f"{c}-{o}" for c, o in COMBINED])
MANY = 2**32 + 1030  # elements: past 32-bit indices, ending within a block


def assert_alike(there: Any, host: Any) -> None:
    for a, b in zip(there.stepper.items, host.stepper.items, strict=True):
        for (x, name), (y, _) in zip(a.arrays(), b.arrays(), strict=True):
            assert_same_bits(device.on_host(x), y, name)


def small() -> list[np.ndarray]:
    return random_arrays(1, [5, 1024, 1500], np.float32)


def gradients(k: int) -> list[np.ndarray]:
    return random_arrays(2 + k, [5, 1024, 1500], np.float32, spread=1.0)


@by_dtype
@by_combination
def test_bytes_of_the_cpu(case, dtype, options, framework):
    params, *steps = problem(dtype)
    host = case.make([np.array(a, order="K") for a in params], **OPTIONS[options])
    there = case.make([framework.array(a) for a in params], **OPTIONS[options])
    for step in steps:
        expected = [np.array(g, order="K") for g in step]
        actual = [framework.array(g) for g in step]
        assert report_of(there.step(actual)) == report_of(host.step(expected))
        for a, e in zip(actual, expected, strict=True):
            assert_same_bits(framework.numpy(a), e, "gradient")
    assert_alike(there, host)


@by_rule
def test_accumulated_samples(case, framework):
    host, there = case.make(small()), case.make([framework.array(a) for a in small()])
    for opt, wrap in ((host, np.array), (there, framework.array)):
        for k in range(2):
            opt.accumulate(
                [wrap(np.stack([a, b])) for a, b in zip(gradients(k), gradients(9), strict=True)], reduce="mean"
            )
        opt.step()
    assert_alike(there, host)


def test_more_than_32_bits_of_elements(framework):
    """First, last and boundary elements of one huge tensor."""
    try:
        p, g = framework.empty(MANY), framework.empty(MANY)
    except Exception as error:  # each framework has an error of its own
        pytest.skip(f"needs {8 * MANY >> 30} GiB of device memory: {error}")
    places = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1024, MANY - 1]
    for k, place in enumerate(places):
        g[place] = k + 1.0
    opt = fu.SGD([p], lr=0.5, clip_norm=1e9)
    report = opt.step([g])
    assert [float(p[place]) for place in places] == [-0.5 * (k + 1) for k in range(len(places))]
    assert float(p[12345]) == 0.0
    assert report.grad_norm == np.sqrt(sum((k + 1.0) ** 2 for k in range(len(places))))


def test_the_current_stream(framework):
    """A step follows what was queued on the stream it is called on, and what is queued after it sees its result."""
    p, g = framework.empty(1 << 20), framework.empty(1 << 20)
    opt = fu.SGD([p], lr=1.0)
    framework.synchronize()
    with framework.on(framework.stream()):
        framework.busy()
        framework.fill(g, 2.0)  # late
        opt.step([g])
        framework.fill(g, 5.0)  # early, if the step had not been waited for
    framework.synchronize()
    assert float(p[0]) == float(p[-1]) == -2.0


def test_a_gradient_of_another_framework_and_stream():
    cupy, torch = (pytest.importorskip(name, reason="needs both frameworks") for name in ("cupy", "torch"))
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    p, g = cupy.zeros(1 << 20, "float32"), torch.zeros(1 << 20, device="cuda")
    opt = fu.SGD([p], lr=1.0)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()), cupy.cuda.Stream(non_blocking=True):
        x = torch.zeros(1 << 26, device="cuda")
        for _ in range(20):
            x += 1
        g.fill_(2.0)
        opt.step([g])
        g.fill_(5.0)
    torch.cuda.synchronize()
    assert float(p[0]) == -2.0


@pytest.mark.parametrize(
    "options", [{}, {"clip_norm": 1.0, "nonfinite": "skip", "monitor": True}, {"lookahead": (3, 0.5)}],
    ids=["plain", "skip", "lookahead"],
)  # fmt: skip
def test_a_captured_step_replays(options, framework):
    schedule = schedules.cosine(0.1, 20)
    host = fu.AdamW(small(), lr=schedule, **options)
    there = fu.AdamW([framework.array(a) for a in small()], lr=schedule, **options)
    buffers = [framework.array(g) for g in gradients(0)]

    def fill(k: int) -> list[np.ndarray]:
        values = gradients(k)
        if "nonfinite" in options and k == 2:
            values[1][7] = np.nan
        for buffer, value in zip(buffers, values, strict=True):
            buffer[...] = framework.array(value)
        framework.synchronize()
        return values

    for k in range(2):
        host.step(fill(k)), there.step(buffers)
    framework.synchronize()
    stream, launch = framework.capture(lambda: there.step(buffers))
    for k in range(2, 8):
        expected = host.step(fill(k))
        with framework.on(stream):
            actual = there.before_replay()
            launch()
            assert report_of(actual) == report_of(expected)
    framework.synchronize()
    assert there.step_count == host.step_count
    assert_alike(there, host)


@pytest.mark.parametrize(
    "options", [{"clip_norm": 1.0}, {"nonfinite": "skip"}, {"monitor": True}], ids=["norm", "skip", "sums"]
)
def test_a_replay_is_looked_at_from_another_stream(options, framework):
    """Its figures are fetched from the stream of its launch, which is busy; before the launch there are none."""
    values = gradients(0)
    values[1][7] = np.nan if "nonfinite" in options else 1.0
    host = fu.AdamW(small(), **options)
    there = fu.AdamW([framework.array(a) for a in small()], **options)
    buffers = [framework.array(g) for g in values]
    framework.synchronize()
    stream, launch = framework.capture(lambda: there.step(buffers))
    for _ in range(3):
        with framework.on(stream):
            report = there.before_replay()
            with pytest.raises(RuntimeError, match="has not been launched since before_replay"):
                report_of(report)
            framework.busy()
            launch()
        assert report_of(report) == report_of(host.step(values))
        assert there.step_count == host.step_count
    framework.synchronize()
    assert_alike(there, host)


MATRIX_RULES = [fu.Muon, fu.NorMuon, fu.AdaMuon, fu.Scion, fu.SOAP]
by_matrix_rule = pytest.mark.parametrize("rule", MATRIX_RULES, ids=lambda rule: rule.__name__)


def matrices(k: int) -> list[np.ndarray]:
    return [a.reshape(7, 7) for a in random_arrays(k, [49, 49], np.float64, spread=1.0)]


def check_matrices(rule: Any, array: Any, numpy: Any) -> None:
    """Steps of a rule that multiplies matrices are NumPy's, within the roundings of other libraries."""
    weights, there = matrices(1), [array(a) for a in matrices(1)]
    host, device_opt = rule(weights), rule(there)
    for k in range(4):
        host.step(matrices(2 + k)), device_opt.step([array(g) for g in matrices(2 + k)])
    for actual, expected in zip(there, weights, strict=True):
        np.testing.assert_allclose(numpy(actual), expected, rtol=1e-6, atol=1e-9)


@by_matrix_rule
def test_products_of_matrices(rule, framework):
    check_matrices(rule, framework.array, framework.numpy)


@by_matrix_rule
def test_products_on_a_device_that_is_not_current(rule):
    cupy = pytest.importorskip("cupy", reason="needs cupy")
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two CUDA devices")

    def array(values: np.ndarray):
        with cupy.cuda.Device(1):
            return cupy.asarray(values)

    check_matrices(rule, array, cupy.asnumpy)
    assert cupy.cuda.Device().id == 0


def test_eigenvectors_of_what_is_not_finite(framework):
    """An error, as on the host, and no factor keeps it."""
    there = fu.SOAP([framework.array(a) for a in matrices(1)])
    bad = matrices(2)
    bad[1][2, 3] = np.nan
    with pytest.raises(FloatingPointError, match=r"\[soap\] grads\[1\]: expected a gradient whose products have"):
        there.step([framework.array(g) for g in bad])
    assert not any(framework.numpy(a).any() for name in ("left", "right") for a in there.state[name])


def test_products_of_matrices_are_not_captured(framework):
    there, grads = fu.Muon([framework.array(a) for a in matrices(1)]), [framework.array(g) for g in matrices(2)]
    something = framework.empty(1)
    framework.synchronize()

    def work() -> None:
        framework.fill(something, 1.0)
        with pytest.raises(RuntimeError, match="cannot be captured"):
            there.step(grads)

    framework.capture(work)
    with pytest.raises(TypeError, match="of a rule that multiplies no matrices"):
        there.before_replay()
    framework.synchronize()
    there.step(grads)
    assert there.step_count == 1


@pytest.mark.parametrize("nonfinite", ["propagate", "skip"])
def test_steps_do_not_wait(nonfinite, framework):
    """Calls return while the device is still busy with what was queued before them."""
    p, g = framework.empty(1 << 20), framework.empty(1 << 20)
    opt = fu.Adam([p], clip_norm=1.0, monitor=True, nonfinite=nonfinite)
    opt.step([g])
    framework.synchronize()
    stream = framework.stream()
    with framework.on(stream):
        framework.busy()
        for _ in range(3):
            opt.step([g])
        assert not framework.done(stream)


@pytest.mark.parametrize("other", ["host", "device"])
def test_memory_must_match(other, framework):
    params, grads = (small(), gradients(0))
    if other == "host":
        params = [framework.array(a) for a in params]
    else:
        grads = [framework.array(a) for a in grads]
    with pytest.raises(TypeError, match=r"grads\[0\]: expected an array in"):
        fu.SGD(params).step(grads)


def test_a_gradient_on_another_device(framework):
    cupy = pytest.importorskip("cupy", reason="moves between devices by cupy")
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two CUDA devices")
    with cupy.cuda.Device(1):
        wrong = cupy.zeros(3, "float32")
    with pytest.raises(TypeError, match="expected an array in CUDA device 0, received one in CUDA device 1"):
        fu.SGD([cupy.zeros(3, "float32")]).step([wrong])


def _in_a_child(queue: Any) -> None:
    import cupy

    with contextlib.suppress(Exception):
        cupy.zeros(1)
    try:
        fu.SGD([np.ones(3, np.float32)]).step([np.ones(3, np.float32)])
        _left_over.step([_gradient])
        queue.put("no error")
    except Exception as error:
        queue.put(f"{type(error).__name__}: {error}")


def test_a_fork_after_cuda_was_used():
    """Host arrays still work in the child; device arrays say why they cannot."""
    global _left_over, _gradient  # what a forked child inherits
    cupy = pytest.importorskip("cupy", reason="needs cupy")
    _left_over, _gradient = fu.SGD([cupy.ones(3, "float32")]), cupy.ones(3, "float32")
    _left_over.step([_gradient])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_a_child, args=(queue,))
    child.start()
    said = queue.get(timeout=60)
    child.join(60)
    assert re.match(r"RuntimeError: .*CUDA cannot be used in a process that was forked", said)
