"""Gradients of narrow types leave the bytes of a step on the same numbers in float32, on every engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import CASES, FIRST_CASES, Case, arrays_of, assert_same_bits, by_backend, by_engine, random_arrays
from device_arrays import FakeArray
from peers import peer
from storage import LIBRARIES, NARROW, decoded, every_code, library_array, narrow

import fastupdate as fu
from fastupdate import functional
from fastupdate.arrays import accept, device, memory
from fastupdate.engines import choose

by_kind = pytest.mark.parametrize("kind", NARROW)


def shifted(a: np.ndarray) -> np.ndarray:
    """The array at an odd address."""
    raw = np.zeros(a.nbytes + 1, np.uint8)
    there = raw[1:].view(a.dtype).reshape(a.shape)
    there[...] = a
    return there


SIZES = [0, 1, 2, 5, 31, 33, 127, 128, 129, 1023, 1024, 1025, 2047, 2048, 2049, 5000]
VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": lambda a: a,
    "fortran": lambda a: np.asfortranarray(a.reshape(41, -1)),
    "strided": lambda a: np.repeat(a, 2)[::2],
    "reversed": lambda a: a[::-1],
    "cube": lambda a: np.ascontiguousarray(a.reshape(5, 41, -1).transpose(2, 0, 1)).transpose(1, 2, 0),
    "odd address": shifted,
}
VIEW_SIZE = 5 * 41 * 13
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norms": {"clip_norm": 3.0, "nonfinite": "skip", "monitor": True},
    "tensors": {"clip_tensor_norm": 0.5, "clip_value": 0.8, "l1": 1e-3, "zero_grads": True, "monitor": True},
    "units": {"clip_unit_norm": 0.05, "l1": 1e-3, "l1_mode": "proximal", "decay": "independent", "maximize": True},
    "copies": {"ema_decay": 0.9, "shadow": "bfloat16", "lookahead": (2, 0.6), "zero_grads": True},
}
COMBINED = [(case, "plain") for case in CASES] + [(case, o) for case in FIRST_CASES for o in list(OPTIONS)[1:]]
by_combination = pytest.mark.parametrize(("case", "options"), COMBINED, ids=[f"{c}-{o}" for c, o in COMBINED])


def problem(kind: str, view: str = "contiguous", steps: int = 3) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Parameters, and the narrow gradients of some steps: all sizes, or one size lying in a way of its own."""
    sizes = SIZES if view == "contiguous" else [VIEW_SIZE]
    params = [VIEWS[view](a) for a in random_arrays(7, sizes, np.float32, spread=1.0)]
    grads = [random_arrays(8 + k, sizes, np.float32, spread=1.0) for k in range(steps)]
    if view == "odd address":  # of the gradient: parameters may lie there too, which tests of layouts show
        params = [np.ascontiguousarray(p) for p in params]
    return params, [[VIEWS[view](narrow(g, kind)) for g in step] for step in grads]


class Way(NamedTuple):
    """How a run hands over its arrays: on which backend, where parameters go, and gradients in which type and place."""

    backend: str | None
    read: Callable[[np.ndarray], Any]
    place: Callable[[np.ndarray], Any] = np.copy
    order: str = "K"  # of parameters


def run(case: Case, kind: str, view: str, options: str, way: Way) -> list[np.ndarray]:
    """What steps of every kind leave behind, gradients and reports included: plain and moving ones, one on accumulated
    micro-batches, one on samples."""
    params, steps = problem(kind, view)
    params = [way.place(np.array(p, order=way.order)) for p in params]
    opt = case.make(params, backend=way.backend, **OPTIONS[options])
    reports, used = [], []
    for grads in steps[:2]:
        used += [way.read(g) for g in grads]
        reports.append(opt.step(used[-len(grads) :]))
    for grads, weight in zip(steps[1:], (1.0, 2.0), strict=True):
        opt.accumulate([way.read(g) for g in grads], weight=weight)
    reports.append(opt.step(loss_scale=8.0))
    samples = [np.stack([a, b, a]) for a, b in zip(*steps[:2], strict=True)]
    reports.append(opt.step([way.read(g) for g in samples], reduce="mean"))
    tables = [r.tensors[name] for r in reports if r.tensors is not None for name in r.tensors.dtype.names[1:]]
    figures = np.array([(r.step, r.lr, r.clip_factor, r.grad_norm or 0.0) for r in reports])
    left = [device.on_host(accept.as_array(g, opt.stepper.place("grads"))) for g in used]
    kept = [np.array(device.on_host(a)) for arrays in arrays_of(opt).values() for a in arrays]
    return [*kept, *(g if g.dtype == np.float32 else decoded(g) for g in left), *tables, figures]


@by_engine
@by_kind
@by_combination
def test_bytes_of_float32(case, options, kind, engine):
    backend = engine.select()
    expected = run(case, kind, "contiguous", options, Way(backend, decoded))
    assert_same_bits(run(case, kind, "contiguous", options, Way(backend, np.copy)), expected, "step")


@by_backend
@by_kind
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("view", list(VIEWS)[1:])
@pytest.mark.parametrize("order", ["C", "K"])  # of the parameter: its own, or that of the gradient
def test_layouts(order, view, options, kind, backend):
    case = FIRST_CASES[-1]
    wide, narrow_ones = (Way(backend, read, np.array, order) for read in (decoded, as_it_lies))
    expected = run(case, kind, view, options, wide)
    assert_same_bits(run(case, kind, view, options, narrow_ones), expected, "step")


def as_it_lies(a: np.ndarray) -> np.ndarray:
    """A copy that lies in memory as the array does, between other elements and at its odd address."""
    low, high = np.lib.array_utils.byte_bounds(a)
    raw = np.full(high - low + 1, 0xFF, np.uint8)
    first = a.__array_interface__["data"][0]
    odd = (raw.ctypes.data ^ low) & 1
    there = np.ndarray(a.shape, a.dtype, raw, first - low + odd, a.strides)
    there[...] = a
    return there


@by_engine
@by_kind
@pytest.mark.parametrize("flushing", [False, True], ids=["", "flush-to-zero"])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_every_code(kind, engine, flushing):
    """All 65,536 of them, subnormal ones too where the processor takes float32's subnormals for zero."""
    backend, codes = engine.select(), every_code(kind)
    expected = decoded(codes)
    opt = fu.SGD([np.zeros(codes.size, np.float32)], lr=1.0, backend=backend)
    if flushing:
        torch = pytest.importorskip("torch", reason="torch is not installed: it sets the mode")
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor cannot flush to zero")
        fu.set_num_threads(1)
        if kind == "bfloat16":  # its subnormals are float32's, and met by the first arithmetic that a step does
            tiny = np.finfo(np.float32).smallest_normal
            expected = np.where(np.abs(expected) < tiny, np.copysign(np.float32(0), expected), expected)
    try:
        opt.accumulate([codes])
    finally:
        if flushing:
            torch.set_flush_denormal(False)
    assert_same_bits(opt.stepper.items[0].slots["accumulator"], expected, "decoded")


@by_backend
@by_kind
@pytest.mark.parametrize("view", VIEWS)
def test_zeroed_and_nothing_else(view, kind, backend):
    """By a step, by one that is skipped and by accumulating; the bytes between and around the elements stay."""
    params, steps = problem(kind, view)
    p, grads = np.array(params[-1]), [as_it_lies(step[-1]) for step in steps]
    opt = fu.SGD([p], lr=0.1, zero_grads=True, nonfinite="skip", backend=backend)
    bad = grads[1].view(np.uint16)
    bad[(0,) * bad.ndim] = 0x7F80 if kind == "bfloat16" else 0x7C00
    opt.step([grads[0]])
    assert opt.step([grads[1]]).skipped
    opt.accumulate([grads[2]])
    for g in grads:
        raw = g
        while isinstance(raw.base, np.ndarray):
            raw = raw.base
        assert not g.view(np.uint16).any()
        assert np.count_nonzero(raw.view(np.uint8) == 0xFF) == raw.nbytes - g.nbytes


# -- containers -------------------------------------------------------------------------------------------------------


@by_kind
@by_backend
@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries(library, backend, kind):
    """Step by step, bound, and without an optimizer."""
    params, steps = problem(kind)
    left = {}
    for name, own in (("narrow", lambda g: library_array(library, decoded(g), kind)), ("float32", decoded)):
        p = [np.array(a) for a in params]
        opt = fu.AdamW(p, backend=backend)
        for grads in steps:
            opt.step([own(g) for g in grads])
        opt.bind([own(g) for g in steps[0]])
        opt.step(), opt.step()
        m, v = ([np.array(a) for a in opt.state[key]] for key in "mv")
        functional.adamw(p, [own(g) for g in steps[1]], m, v, step=9, lr=0.01)
        functional.adamw(p[-1], own(steps[1][-1]), m[-1], v[-1], step=9, lr=0.01)
        left[name] = [*p, *m, *v]
    assert_same_bits(left["narrow"], left["float32"], library)


QUICK = [
    pytest.param("numpy", marks=pytest.mark.skipif(choose.native_problem() is not None, reason="no native module")),
    pytest.param("torch", marks=pytest.mark.peer),
]


@by_kind
@pytest.mark.parametrize("options", ["plain", "units"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("library", QUICK)
def test_read_at_a_glance(library, order, options, kind, monkeypatch):
    """The native engine takes narrow gradients by itself wherever they come to lie; of a parameter in another order it
    has to have seen one of them."""
    if library == "torch" and not hasattr(peer("torch").Tensor, "__dlpack_c_exchange_api__"):
        pytest.skip("this torch has no C functions for its tensors")
    values = [a.reshape(30, 40) for a in random_arrays(1, [1200] * 5, np.float32)]
    p, other = (np.array(values[0], order=order) for _ in range(2))
    opt = fu.AdamW([peer("torch").from_numpy(p) if library == "torch" else p], **OPTIONS[options])
    expected = fu.AdamW([other], **OPTIONS[options])

    def in_order(a: np.ndarray) -> Any:
        made = library_array(library, np.ascontiguousarray(a.T if order == "F" else a), kind)
        return made.T if order == "F" else made

    for k, g in enumerate(values[1:]):
        if k == 1:
            monkeypatch.setattr(accept, "as_array", lambda _, place: pytest.fail(f"{place} was looked at closely"))
        opt.step([in_order(g)])
        expected.step([np.array(decoded(narrow(g, kind)), order=order)])
    assert_same_bits(p, other, "weight")


@pytest.mark.peer
@by_kind
def test_gradients_that_torch_parameters_hold(kind):
    torch = peer("torch")
    if not hasattr(torch.Tensor, "grad_dtype"):
        pytest.skip("in this torch gradients have the type of their parameter")
    values, *grads = random_arrays(2, [500] * 3, np.float32)
    weights = [torch.nn.Parameter(torch.from_numpy(values.copy())) for _ in range(2)]
    weights[0].grad_dtype = getattr(torch, kind)
    optimizers = [fu.AdamW([w]) for w in weights]
    for g in grads:
        weights[0].grad = torch.from_numpy(g).to(getattr(torch, kind))
        weights[1].grad = weights[0].grad.float()
        for opt in optimizers:
            opt.step()
    assert_same_bits(*(w.detach().numpy() for w in weights), "weight")


@by_backend
@by_kind
def test_one_buffer_of_changing_type(kind, backend):
    """Gradients may be wide in one step and narrow in the next, at one address."""
    raw = np.zeros(400, np.uint8)
    wide, half = raw.view(np.float32), raw[:200].view(memory.STORAGE[kind].dtype)
    p, other = np.ones(100, np.float32), np.ones(100, np.float32)
    opt, expected = (fu.SGD([a], lr=0.1, backend=backend) for a in (p, other))
    values = random_arrays(3, [100] * 4, np.float32)
    for k, g in enumerate(values):
        buffer = half if k % 2 else wide
        buffer[...] = narrow(g, kind) if k % 2 else g
        opt.step([buffer])
        expected.step([decoded(buffer) if k % 2 else g])
    assert_same_bits(p, other, "weight")


# -- on devices -------------------------------------------------------------------------------------------------------


def on_device(offset: int) -> Callable[[np.ndarray], FakeArray]:
    """Places narrow gradients so many elements past a 16-byte boundary."""
    return lambda g: FakeArray(g, offset * g.itemsize)


@pytest.mark.usefixtures("shim")
@by_kind
@by_combination
def test_bytes_of_float32_on_a_device(case, options, kind):
    expected = run(case, kind, "contiguous", options, Way(None, decoded))
    actual = run(case, kind, "contiguous", options, Way(None, on_device(0), FakeArray))
    assert_same_bits(actual, expected, "step")


@pytest.mark.usefixtures("shim")
@by_kind
@pytest.mark.parametrize("options", ["plain", "tensors"])
@pytest.mark.parametrize("offset", range(1, 5))
@pytest.mark.parametrize("view", VIEWS)
def test_layouts_on_a_device(view, offset, options, kind):
    case = FIRST_CASES[-1]
    expected = run(case, kind, view, options, Way(None, decoded))
    assert_same_bits(run(case, kind, view, options, Way(None, on_device(offset), FakeArray)), expected, "step")


@pytest.mark.usefixtures("shim")
@by_kind
@pytest.mark.parametrize("offset", [0, 1])
def test_every_code_on_a_device(offset, kind):
    codes = every_code(kind)
    opt = fu.SGD([FakeArray(np.zeros(codes.size, np.float32))], lr=1.0)
    opt.accumulate([on_device(offset)(codes)])
    assert_same_bits(device.on_host(opt.stepper.items[0].slots["accumulator"]), decoded(codes), "decoded")


@pytest.mark.usefixtures("shim")
@by_kind
def test_lists_of_both_compute_types_on_a_device(kind):
    """Narrow gradients for the float32 parameters among them."""
    params, (grads, *_) = problem(kind)
    left = []
    for place, read in ((FakeArray, FakeArray), (np.copy, decoded)):
        p = [place(a.astype(t)) for a in params for t in (np.float32, np.float64)]
        opt = fu.AdamW(p, clip_norm=1.0, zero_grads=True)
        opt.step([x for g in grads for x in (read(g), place(decoded(g).astype(np.float64)))])
        left.append([np.array(device.on_host(item.array)) for item in opt.stepper.items])
    assert_same_bits(*left, "weights")
