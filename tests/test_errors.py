"""The rows of the fault table: bad arrays get an error that names the argument, and nothing has changed.

Each test's id starts with the row's number. Whatever raises must leave parameters, states, gradients, step counts and
hyperparameters byte-identical (cases.fingerprint).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cases import SIMD_WIDTH, assert_same_bits, by_backend, by_case, by_rule, cases_of, fingerprint
from peers import peer
from reference import Reference
from unchanged import SHAPES, misaligned, raises_unchanged, read_only, strided, swapped, tensors

import fastupdate as fu

ADAM = cases_of("adam")[0]


# Row 1, 9, 11: what is wrong with one gradient of shape (3, 4) or whichever stands there.
BAD_GRADIENTS: dict[str, tuple[Callable[[np.ndarray], Any], type[Exception], str]] = {
    "1-none": (lambda g: None, TypeError, r"expected an array \(or missing='skip', or opt.freeze.*\), received None"),
    "1-number": (lambda g: 1.0, TypeError, "expected an array, received float"),
    "1-dtype": (lambda g: g.astype(np.float64), TypeError, "expected float32, received float64"),
    "1-shape": (lambda g: np.zeros((2, *g.shape), g.dtype), ValueError, "expected shape"),
    "1-size-by-one": (lambda g: np.zeros(g.size + 1, g.dtype), ValueError, "expected shape"),
    "1-masked": (np.ma.masked_invalid, TypeError, "without a mask"),
    "9-integer": (lambda g: g.astype(np.int32), TypeError, "expected float32, received int32"),
    "9-complex": (lambda g: g.astype(np.complex64), TypeError, "expected float32, received complex64"),
    "9-object": (lambda g: g.astype(object), TypeError, "expected float32, received object"),
    "9-bool": (lambda g: g > 0, TypeError, "expected float32, received bool"),
    "9-longdouble": (lambda g: g.astype(np.longdouble), TypeError, "expected float32, received"),
    "9-byte-swapped": (swapped, TypeError, "expected float32, received byte-swapped float32"),
    "11-broadcast": (lambda g: g.ravel()[:1].reshape((1,) * g.ndim), ValueError, "expected shape"),
}
POSITIONS = [0, 1, len(SHAPES) - 1]  # start, middle, end; a 0-d array, which could hold anything, is not among them


@pytest.mark.parametrize("bad", BAD_GRADIENTS)
@by_backend
@by_rule
def test_bad_gradient(case, backend, bad):
    damage, kind, words = BAD_GRADIENTS[bad]
    opt = case.make(tensors(), backend=backend, ema_decay=0.9)
    opt.step(tensors(1))
    for k in POSITIONS:
        grads: list[Any] = tensors(2)
        grads[k] = damage(grads[k])
        raises_unchanged(opt, grads, kind, re.escape(f"[{case.rule}] grads[{k}]: ") + ".*" + words)
    opt.step(tensors(3))
    assert opt.step_count == 2


NO_ARRAY = r": expected an array \(or missing='skip', or opt.freeze\(.*\), to leave it alone\), received none"
STRUCTURES: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "1-missing": ({"a": 1, "b": {"c": 1}}, {"a": 1}, ValueError, r"grads\['b'\]\['c'\]" + NO_ARRAY),
    "1-extra": ({"a": 1}, {"a": 1, "x": 1}, ValueError, r"grads\['x'\]: expected nothing"),
    "1-renamed": (
        {"a": 1},
        {"b": 1},
        ValueError,
        r"grads: expected the structure of params, with params\['a'\], received another, with grads\['b'\]",
    ),
    "1-dict-for-list": ([1, 1], {"a": 1, "b": 1}, ValueError, "grads: expected the structure of params"),
    "1-nested-list": ([1, 1], [[1, 1]], ValueError, r"with params\[0\], received another, with grads\[0\]\[0\]"),
    "1-short-list": ([1, 1], [1], ValueError, r"grads\[1\]" + NO_ARRAY),
    "1-long-list": ([1], [1, 1], ValueError, r"grads\[1\]: expected nothing"),
    "1-array-for-list": ([1, 1], 1, ValueError, r"expected the structure of params, .*, received another, with grads$"),
    "1-array-for-part": ([[1], 1], [1, 1], ValueError, r"with params\[0\]\[0\], received another, with grads\[0\]$"),
    "1-part-for-array": (
        [[1], 1],
        [[1], [1]],
        ValueError,
        r"with params\[1\], received another, with grads\[1\]\[0\]$",
    ),
    "1-none-for-part": ([[1], 1], [None, 1], ValueError, r"grads\[0\]\[0\]" + NO_ARRAY),
    "1-empty": ([1], [], ValueError, r"grads\[0\]" + NO_ARRAY),
    "1-no-gradients": ([1], None, TypeError, "grads: expected gradients, or bound ones"),
}


def filled(tree: Any) -> Any:
    """The same structure with an array for each 1."""
    if isinstance(tree, dict):
        return {key: filled(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [filled(value) for value in tree]
    return None if tree is None else np.ones(3, np.float32)


@by_backend
@pytest.mark.parametrize("name", STRUCTURES)
def test_structure(backend, name):
    params, grads, kind, words = STRUCTURES[name]
    raises_unchanged(ADAM.make(filled(params), backend=backend), filled(grads), kind, words)


def zeros(n: int = 3, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(n, dtype)


BAD_STATES: dict[str, tuple[list[np.ndarray], type[Exception], str]] = {
    "2-shape": ([zeros(4), zeros()], ValueError, r"state\['m'\]: expected shape"),
    "2-dtype": ([zeros(3, np.float64), zeros()], TypeError, r"state\['m'\]: expected float32"),
    "2-too-few": ([zeros()], ValueError, "state: expected m, v, received 1 of them"),
    "2-strided": ([zeros(), zeros(6)[::2]], ValueError, r"state\['v'\]: expected a contiguous"),
    "8-read-only": ([zeros(), read_only(zeros())], ValueError, r"state\['v'\]: expected a writable"),
    "7-same-twice": ([zeros()] * 2, ValueError, r"state\['v'\]: expected memory apart from state\['m'\]"),
}


@pytest.mark.parametrize("name", BAD_STATES)
def test_bad_state(name):
    states, kind, words = BAD_STATES[name]
    p = np.ones(3, np.float32)
    before = [a.tobytes() for a in (p, *states)]
    with pytest.raises(kind, match=words):
        fu.functional.adam(p, np.ones(3, np.float32), *states, step=1)
    assert [a.tobytes() for a in (p, *states)] == before


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "3-strided": strided,
    "3-reversed": lambda a: strided(a)[::-1] if a.ndim else strided(a),
    "3-transposed": np.asfortranarray,
    "3-column": lambda a: np.hstack([np.full((a.size, 1), 77, a.dtype), a.reshape(-1, 1)])[:, 1].reshape(a.shape),
    "9-misaligned": misaligned,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@by_backend
@by_case
def test_layouts(case, backend, layout):
    """Updated in place, with the bits of a contiguous array, and no neighbour touched."""
    lay = LAYOUTS[layout]
    sizes = [(3, 5, 7), (1100,), (4 * SIMD_WIDTH + 1,), (2, 600)]
    rng = np.random.default_rng(0)
    start, grads = ([rng.standard_normal(s).astype(np.float32) for s in sizes] for _ in range(2))
    options: dict[str, Any] = {"clip_norm": 0.5, "zero_grads": True}
    params, laid = [lay(p) for p in start], [lay(g) for g in grads]
    reference = Reference(case, params, **options)
    opt = case.make(params, backend=backend, **options)
    owners = [a.base for a in (*params, *laid) if a.base is not None and a.base.dtype == np.float32]
    strangers = [np.flatnonzero(o.ravel() == 77.0) for o in owners]
    reference.step(laid)
    opt.step(laid)
    assert_same_bits(params, reference.params, "params")
    assert not any(g.any() for g in laid), "zero_grads"
    for owner, where in zip(owners, strangers, strict=True):
        assert (owner.ravel()[where] == 77.0).all(), "a neighbour was touched"


@by_backend
@by_case
def test_4_empty_and_scalar_arrays(case, backend):
    shapes = [(0,), (), (3, 0, 2), (5,), (0,), (), (0, 7)]
    rng = np.random.default_rng(0)
    params, grads = ([np.array(rng.standard_normal(s)) for s in shapes] for _ in range(2))
    for options in ({}, {"clip_unit_norm": 0.01, "monitor": True}, {"clip_norm": 0.1}):
        reference = Reference(case, params, **options)
        opt = case.make(params, backend=backend, **options)
        reference.step(grads)
        opt.step(grads)
        assert_same_bits(params, [p.reshape(s) for p, s in zip(reference.params, shapes, strict=True)], str(options))


@by_backend
@pytest.mark.parametrize("wrong", [0, 1500, 2999])
def test_1_one_among_many(backend, wrong):
    """A list so long that threads look through it together."""
    fu.set_num_threads(2)
    opt = fu.SGD([np.ones(3, np.float32) for _ in range(3000)], backend=backend)
    grads = [np.ones(3, np.float32) for _ in range(3000)]
    grads[wrong] = np.ones(4, np.float32)
    raises_unchanged(opt, grads, ValueError, rf"grads\[{wrong}\]: expected shape \(3,\), received shape \(4,\)")


@by_backend
def test_8_read_only(backend):
    p, g = np.ones(3, np.float32), read_only(np.ones(3, np.float32))
    with pytest.raises(ValueError, match=r"params\[0\]: expected a writable array, received a read-only one"):
        fu.Adam([read_only(p)])
    opt = ADAM.make([p], backend=backend)
    opt.step([g])  # a gradient is only read …
    zeroing = ADAM.make([np.ones(3, np.float32)], zero_grads=True, backend=backend)
    raises_unchanged(zeroing, [g], ValueError, r"grads\[0\]: expected a writable array, to be zeroed")  # … or not
    p.flags.writeable = False
    raises_unchanged(opt, [g], ValueError, r"params\[0\]: expected a writable array, received a read-only one")


BAD_PARAMETERS: dict[str, tuple[Any, type[Exception], str]] = {
    "1-none": (None, TypeError, "received None"),
    "1-list-of-numbers": (
        [1.0, 2.0],
        TypeError,
        r"expected an array \(of one number: np.zeros\(\(\)\)\), received float",
    ),
    "1-scalar": (
        [np.float32(1)],
        TypeError,
        r"expected an array \(of one number: np.zeros\(\(\)\)\), received float32",
    ),
    "1-empty-list": ([], ValueError, "at least one array"),
    "1-bytes": (b"1234", TypeError, "received bytes"),
    "9-integer": (np.zeros(3, np.int64), TypeError, "expected float32 or float64, received int64"),
    "9-complex": (np.zeros(3, np.complex64), TypeError, "received complex64"),
    "9-object": (np.zeros(3, object), TypeError, "received object"),
    "9-float16": (np.zeros(3, np.float16), TypeError, "received float16"),
    "9-longdouble": (np.zeros(3, np.longdouble), TypeError, "expected float32 or float64"),
    "9-byte-swapped": (swapped(np.zeros(3)), TypeError, "received byte-swapped float64"),
    "9-masked": (np.ma.zeros(3), TypeError, "without a mask"),
    "9-structured": (np.zeros(3, [("x", "f4"), ("y", "f8")]), TypeError, "or float64, received the fields x, y"),
    "1-object": (SimpleNamespace(w=np.zeros(3)), TypeError, r"as the mapping vars\(x\), received SimpleNamespace"),
    "1-object-without-arrays": (SimpleNamespace(w=3), TypeError, "expected an array, received SimpleNamespace"),
}


@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_bad_parameter(name):
    params, kind, words = BAD_PARAMETERS[name]
    with pytest.raises(kind, match=words):
        fu.Adam(params)


@by_backend
def test_27_resized_and_rebound(backend):
    p, g = np.ones(4, np.float32), np.ones(4, np.float32)
    opt = fu.SGD([p], lr=1.0, backend=backend)
    opt.bind([g])
    opt.step()
    g[:] = 5  # bound buffers are read again
    opt.step()
    assert p.tolist() == [-5.0] * 4
    g.resize(400000, refcheck=False)  # moves
    raises_unchanged(opt, None, ValueError, r"grads\[0\]: expected shape \(4,\), received shape \(400000,\)")
    opt.step([np.ones(4, np.float32)])
    p.resize(400000, refcheck=False)
    with pytest.raises(ValueError, match=r"params\[0\]: expected the array that the optimizer was made for"):
        opt.step([np.ones(400000, np.float32)])
    with pytest.raises(ValueError, match=r"params\[0\]|grads\[0\]"):
        opt.step([np.ones(4, np.float32)])
    assert opt.step_count == 3


@pytest.mark.peer
@by_backend
def test_27_torch_data_replaced(backend):
    """`p.data = …` moves a parameter: the step follows it, and the old memory stays as it was."""
    torch = peer("torch")
    p = torch.ones(4)
    old = p.detach().numpy()
    opt = fu.SGD([p], lr=1.0, backend=backend)
    p.grad = torch.ones(4)
    opt.step()
    p.data = torch.full((4,), 10.0)
    p.grad = torch.full((4,), 3.0)
    opt.step()
    assert (old.tolist(), p.tolist(), opt.step_count) == ([0.0] * 4, [7.0] * 4, 2)
    p.data = torch.zeros(5)
    with pytest.raises(ValueError, match=r"params\[0\]: expected shape \(4,\), received shape \(5,\)"):
        opt.step()


@by_backend
@pytest.mark.parametrize("n", [3, 300000], ids=["small", "large"])
def test_28_two_threads(backend, n):
    """Serialised or busy: every element has moved exactly as often as step_count says."""
    p, g = np.zeros(n, np.float32), np.ones(n, np.float32)
    opt = fu.SGD([p], lr=1.0, backend=backend)
    opt.step([g])
    outcomes: list[Any] = []

    def work() -> None:
        for _ in range(30):
            try:
                outcomes.append(opt.step([g]).step)
            except fu.BusyError:
                outcomes.append(None)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    steps = [s for s in outcomes if s is not None]
    assert len(outcomes) == 120
    assert sorted(steps) == list(range(2, len(steps) + 2))
    assert (p == -opt.step_count).all()


@by_backend
def test_28_a_schedule_that_steps(backend):
    """A call from within a call is busy too, and changes nothing."""
    opt = ADAM.make(tensors(), backend=backend)
    opt.groups[0]["lr"] = lambda step: opt.step(tensors(1)) and 0.1
    raises_unchanged(opt, tensors(1), fu.BusyError, "busy: another call")


@by_backend
def test_1_errors_between_micro_batches(backend):
    """A bad micro-batch, or gradients beside accumulated ones, leave the accumulators as they were."""
    opt = ADAM.make(tensors(), backend=backend)
    opt.accumulate(tensors(1))
    before = fingerprint(opt)
    with pytest.raises(TypeError, match=r"grads\[4\]: expected an array \(or missing=.*\), received None"):
        opt.accumulate([*tensors(2)[:-1], None])
    assert fingerprint(opt) == before
    raises_unchanged(opt, tensors(2), ValueError, "grads: expected None, for micro-batches were accumulated")
    opt.step()
    assert opt.step_count == 1
