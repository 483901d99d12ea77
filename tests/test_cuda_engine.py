"""The kernels' own source, run on the host by tests/cuda_shim, against the CPU engine: the same bytes.

What a GPU alone can show (speed, caches, real streams) is in tests/gpu.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from cases import (
    DTYPES,
    EVERY_CASE,
    FIRST_CASES,
    NIGHTLY_DTYPES,
    assert_same_bits,
    by_case,
    by_dtype,
    by_name,
    by_rule,
    in_sample,
    random_arrays,
)
from device_arrays import FakeArray

import fastupdate as fu
from fastupdate.arrays import device

pytestmark = pytest.mark.usefixtures("shim")

STEPS = 3
# Full vectors, every tail, block boundaries, a segment of sums and more, nothing; and what is not contiguous.
SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 63, 64, 65, 1020, 1023, 1024, 1025, 2049, 9 * 1024 + 1]
VIEWS = {
    "transposed": lambda a: np.asfortranarray(a.reshape(41, -1)),
    "strided": lambda a: np.repeat(a, 2)[::2],
    "reversed": lambda a: a[::-1],
    "cube": lambda a: a.reshape(5, 41, -1).transpose(2, 0, 1),
}
VIEW_SIZE = 5 * 41 * 13
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norms": {"clip_norm": 3.0, "nonfinite": "skip", "monitor": True},
    "tensors": {"clip_tensor_norm": 0.5, "clip_value": 0.8, "l1": 1e-3, "zero_grads": True, "monitor": True},
    "units": {"clip_unit_norm": 0.05, "l1": 1e-3, "l1_mode": "proximal", "decay": "independent", "maximize": True},
    "copies": {"ema_decay": 0.9, "shadow": "bfloat16", "lookahead": (2, 0.6), "monitor": True},
    "masked": {"optimism": 0.3, "cautious": True, "clip_norm": 3.0, "l1": 1e-3, "monitor": True},
    "half": {"shadow": "float16", "decay": "coupled", "nonfinite": "raise", "clip_norm": 3.0},
}
COMBINED = [(case, "plain") for case in EVERY_CASE] + [(case, o) for case in FIRST_CASES for o in list(OPTIONS)[1:]]
RUNS = [(c, o, t) for c, o in COMBINED for t in (DTYPES if in_sample(c) else NIGHTLY_DTYPES)]


@cache
def problem(dtype: Any) -> list[list[np.ndarray]]:
    """Parameters, then the gradients of each step."""
    lists = []
    for k in range(STEPS + 1):
        flat = random_arrays(7 + k, [*SIZES, *[VIEW_SIZE] * len(VIEWS)], dtype, spread=1.0)
        lists.append([*flat[: len(SIZES)], *(v(a) for v, a in zip(VIEWS.values(), flat[len(SIZES) :], strict=True))])
    return lists


def bytes_left(opt: Any, grads: list[Any]) -> dict[str, Any]:
    """Everything that a step writes, as host arrays."""
    arrays = {
        f"{k} {name}": np.array(device.on_host(a))
        for k, item in enumerate(opt.stepper.items)
        for a, name in item.arrays()
    }
    left = {f"grads {k}": g.get() if isinstance(g, FakeArray) else np.array(g) for k, g in enumerate(grads)}
    return {**arrays, **left}


def report_of(report: Any) -> list[Any]:
    scalars = [report.step, report.lr, report.grad_norm, report.clip_factor, report.nonfinite, report.skipped]
    table = report.tensors
    return [repr(scalars), *([] if table is None else [table[f].tobytes() for f in table.dtype.names[1:]])]


def run(case: Any, dtype: Any, options: dict[str, Any], wrap: Any) -> list[Any]:
    """What each of three steps leaves behind and reports."""
    params, *steps = problem(dtype)
    opt = case.make([wrap(a) for a in params], **options)
    left = []
    for step in steps:
        grads = [wrap(g) for g in step]
        report = opt.step(grads)
        left.append((bytes_left(opt, grads), report_of(report)))
    return left


@cache
def on_the_cpu(case: Any, dtype: Any, options: str) -> list[Any]:
    return run(case, dtype, OPTIONS[options], lambda a: np.array(a, order="K"))


def assert_same(actual: list[Any], expected: list[Any]) -> None:
    for step, ((arrays, report), (arrays_there, report_there)) in enumerate(zip(actual, expected, strict=True)):
        for name in arrays_there:
            assert_same_bits(arrays[name], arrays_there[name], f"step {step}, {name}")
        assert report == report_there, f"step {step}"


def assert_same_arrays(actual: Any, expected: Any) -> None:
    arrays = bytes_left(actual, [])
    for name, array in bytes_left(expected, []).items():
        assert_same_bits(arrays[name], array, name)


@pytest.mark.parametrize(("case", "options", "dtype"), RUNS, ids=by_name)
def test_bytes_of_the_cpu(case, dtype, options):
    assert_same(run(case, dtype, OPTIONS[options], FakeArray), on_the_cpu(case, dtype, options))


@pytest.mark.parametrize("schedule", [0, 1, 2], ids=["in order", "reversed", "shuffled"])
@pytest.mark.parametrize("resident", [1, 4, 1000])
@pytest.mark.parametrize("options", ["norms", "units", "copies"])
def test_any_order_and_grid(options, resident, schedule, shim):
    """Neither the order of threads nor the number of thread blocks matters."""
    shim.set_schedule(schedule)
    shim.set_resident(resident)
    case = FIRST_CASES[0]
    assert_same(run(case, np.float32, OPTIONS[options], FakeArray), on_the_cpu(case, np.float32, options))


@by_rule
@by_dtype
@pytest.mark.parametrize("offset", range(1, 4))
@pytest.mark.parametrize("which", ["params", "grads", "both"])
def test_arrays_off_a_16_byte_boundary(which, offset, dtype, case):
    """Heads are peeled where all arrays share one, and misaligned arrays are read element by element."""
    moved = offset * np.dtype(dtype).itemsize
    count = [0]

    def wrap(a: np.ndarray) -> FakeArray:
        count[0] += 1
        is_param = count[0] <= len(problem(dtype)[0])
        return FakeArray(a, moved if which == "both" or is_param == (which == "params") else 0)

    options = {"nonfinite": "skip", "zero_grads": True}
    expected = run(case, dtype, options, lambda a: np.array(a, order="K"))
    assert_same(run(case, dtype, options, wrap), expected)


@by_dtype
@pytest.mark.parametrize("options", ["plain", "copies"])
@pytest.mark.parametrize("offsets", [(0, 0, 0), (1, 1, 1), (0, 1, 0), (1, 0, 3)], ids=str)
def test_states_off_a_16_byte_boundary(offsets, options, dtype):
    """Of weight, first and second moment."""
    (params, *steps), size = problem(dtype), np.dtype(dtype).itemsize

    def make(wrap: Any) -> Any:
        p, m, v = ([wrap(np.array(a, order="C"), k) for a in arrays] for arrays, k in zip(lists, offsets, strict=True))
        return fu.AdamW(p, state={"m": m, "v": v}, **OPTIONS[options])

    lists = [params, steps[0], [a * a for a in steps[1]]]
    host, there = make(lambda a, _: a), make(lambda a, offset: FakeArray(a, offset * size))
    host.step([np.array(g) for g in steps[2]]), there.step([FakeArray(g) for g in steps[2]])
    assert_same_arrays(there, host)


@by_case
def test_special_values(case):
    """NaN, infinities, denormals and signed zeros take the same way; only NaN payloads may differ."""
    values = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 1e20]
    p, g = (a.ravel().copy() for a in np.meshgrid(np.float32(values), np.float32(values)))
    options = {**OPTIONS["copies"], "clip_value": 5.0, "l1": 1e-3, "shadow": "float16"}
    host, there = case.make([p.copy()], **options), case.make([FakeArray(p)], **options)
    for _ in range(STEPS):
        expected, actual = host.step([g.copy()]), there.step([FakeArray(g)])
        for name in ("weight_norm", "nonfinite", "stalled"):
            np.testing.assert_array_equal(actual.tensors[name], expected.tensors[name])
    assert_same_arrays(there, host)


@by_rule
@by_dtype
def test_accumulated_samples(case, dtype):
    """Per-sample gradients summed, micro-batches accumulated, mixed with strides."""
    params, *steps = problem(dtype)
    host, there = case.make([np.array(a) for a in params]), case.make([FakeArray(a) for a in params])
    for opt, wrap in ((host, np.array), (there, FakeArray)):
        for _ in range(2):
            for k in range(2):
                opt.accumulate(
                    [wrap(np.stack([a, b, a])) for a, b in zip(*steps[k : k + 2], strict=True)], reduce="mean"
                )
            opt.step()
        opt.step([wrap(np.stack([a, b])) for a, b in zip(*steps[:2], strict=True)], reduce="sum")
    assert_same_arrays(there, host)


@by_rule
@pytest.mark.parametrize("options", [{}, {"clip_norm": 2.0, "monitor": True}], ids=["plain", "norms"])
def test_lists_of_both_dtypes(options, case, shim):
    """Which are updated by one launch too; norms and the folding of statistics take another each."""
    mixed = [problem(np.float32), problem(np.float64)]
    params, *steps = [[a for pair in zip(*lists, strict=True) for a in pair] for lists in zip(*mixed, strict=True)]
    host = case.make([np.array(a) for a in params], **options)
    there = case.make([FakeArray(a) for a in params], **options)
    for step in steps:
        before = shim.launches()
        actual = there.step([FakeArray(g) for g in step])
        assert shim.launches() - before == 1 + len(options)
        assert report_of(actual) == report_of(host.step([np.array(g) for g in step]))
    assert_same_arrays(there, host)


LISTS = {
    "none": [], "nothing": [0], "empty ones around": [0, 5, 0], "many": [3] * 500, "large": [200_000],
    "whole blocks": [1024] * 70 + [1],
}  # fmt: skip


@pytest.mark.parametrize("sizes", LISTS.values(), ids=LISTS)
def test_list_shapes(sizes, shim):
    """One launch for the norms and one for the update, however long the list."""
    case, options = FIRST_CASES[0], {"clip_norm": 1.0}
    if not sizes:
        with pytest.raises(ValueError, match="at least one array"):
            case.make([], **options)
        return
    params, grads = random_arrays(1, sizes, np.float32), random_arrays(2, sizes, np.float32)
    host, there = case.make([a.copy() for a in params], **options), case.make([FakeArray(a) for a in params], **options)
    before = shim.launches()
    actual = there.step([FakeArray(g) for g in grads])
    assert shim.launches() - before == 1 + (sum(sizes) > 0)
    assert report_of(actual) == report_of(host.step(grads))
    assert_same_arrays(there, host)
