"""What gradients of few rows may not be, and where there can be none: errors by name, and nothing has moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import WANTED, assert_same_bits, by_backend, fingerprint
from device_arrays import FakeArray
from row_cases import COUNT, SOME, but_on_numba, pair, rows, values

import fastupdate as fu

NO_ROW = r"\.indices: expected rows 0 … 8 of the parameter \(negative .*\), received "
SUMMED = {"centralize": True, "optimism_norm": 1.0, "cautious": "count", "trust_ratio": True, "keep_norm": True}
REFUSED: dict[str, tuple[dict[str, Any], Callable[[Any], Any], type[Exception], str]] = {
    "negative": ({}, lambda v: rows([0, -1], v), IndexError, NO_ROW + "-1 at position 1"),
    "too large": ({}, lambda v: rows([9, 0], v), IndexError, NO_ROW + "9 at position 0"),
    "floats": ({}, lambda v: rows([0.0, 1.0], v), TypeError, r"\.indices: expected integers, received float64"),
    "truths": ({}, lambda v: fu.Rows(np.ones(2, bool), v), TypeError, r"\.indices: expected integers, received bool"),
    "too few": ({}, lambda v: rows([0], v), ValueError, r"\.indices: expected shape \(2,\)"),
    "axes": ({}, lambda v: rows([[0, 1]], v), ValueError, r"\.indices: expected shape \(2,\)"),
    "wide": ({}, lambda v: rows(SOME, v[:, :3]), ValueError, r"\.values: expected shape \(rows, 4\), .*\(2, 3\)"),
    "flat": ({}, lambda v: rows(SOME, v[0]), ValueError, r"\.values: expected shape \(rows, 4\)"),
    "type": ({}, lambda v: rows(SOME, v.astype(np.float64)), TypeError, r"\.values: expected float32"),
    "a list": ({}, lambda v: fu.Rows(SOME, v), TypeError, r"\.indices: expected an array, received list"),
    "no array": ({}, lambda v: rows(SOME, None), TypeError, r"\.values: expected an array, received None"),
    "zero_grads": ({"zero_grads": True}, lambda v: rows(SOME, v), TypeError, "a dense gradient, beside zero_grads"),
    **{
        name: ({name: value, "rows": "lazy"}, lambda v: rows(SOME, v), ValueError, f"rows='dense' .* beside {name},")
        for name, value in {
            "ema_decay": 0.9, "lookahead": (2, 0.5), "clip_unit_norm": 0.1, "monitor": True, **SUMMED,
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "backend"), but_on_numba(REFUSED, set(SUMMED)))
def test_refused_by_name(name: str, backend: str) -> None:
    """Other tensors, whose gradients are fine, have not moved either."""
    options, make, error, message = REFUSED[name]
    params = {key: values(1, count, 4, np.float32) for key, count in (("head", 3), ("fine", COUNT), ("rows", COUNT))}
    opt = fu.Adam(params, weight_decay=0.03, backend=backend, **options)
    before, head = fingerprint(opt), values(3, 3, 4, np.float32)
    fine = params["fine"].copy() if options else rows(SOME, head[:2])
    made = make(values(2, 2, 4, np.float32))
    said = r"\[adam\] grads\['rows'\]" + ("" if message.startswith("\\.") else ".*") + message
    for gradient in (made, pair(made)):
        with pytest.raises(error, match=said):
            opt.step({"head": head, "fine": fine, "rows": gradient})
    assert fingerprint(opt) == before
    dense = [values(k, COUNT, 4, np.float32) for k in (5, 6)]
    beside = {key: array.copy() for key, array in params.items()}
    for these in (opt, fu.Adam(beside, weight_decay=0.03, backend=backend, **options)):
        these.step({"head": head.copy(), "fine": dense[0].copy(), "rows": dense[1].copy()})
    assert_same_bits([*params.values()], [*beside.values()], name)


GRADIENT = rows(SOME, values(2, 2, 4, np.float32))


@by_backend
def test_calls_that_take_no_rows(backend: str) -> None:
    params = [values(1, COUNT, 4, np.float32)]
    opt = fu.Adam(params, backend=backend, rows="lazy")
    before = fingerprint(opt)
    for gradient in (GRADIENT, pair(GRADIENT)):
        with pytest.raises(TypeError, match=r"grads\[0\]: expected a dense gradient \(rows are others in each step"):
            opt.bind([gradient])
        with pytest.raises(ValueError, match=r"grads\[0\]: expected rows='dense', or the rows of all micro-batches"):
            opt.accumulate([gradient])
        with pytest.raises(TypeError, match=r"grads\[0\]: expected a dense gradient, beside reduce='mean'"):
            opt.step([gradient], reduce="mean")
    with pytest.raises(ValueError, match=r"grads\[0\]: expected memory apart from params\[0\]"):
        opt.step([rows(SOME, params[0][:2])])
    assert fingerprint(opt) == before


@by_backend
@pytest.mark.parametrize("kind", ["transposed", "strided", "scalar"])
def test_parameters_whose_rows_are_no_runs(kind: str, backend: str) -> None:
    made = values(1, 8, 8, np.float32)
    param = {"transposed": made.T, "strided": made[:, ::2], "scalar": np.ones((), np.float32)}[kind]
    with pytest.raises(ValueError, match=r"expected a dense gradient, or rows of a parameter that lies in C order"):
        fu.Adam([param], backend=backend).step([rows([0], np.ones((1, 8), np.float32))])


def test_rules_that_measure_whole_tensors() -> None:
    opt = fu.Lamb([values(1, COUNT, 4, np.float32)], rows="lazy", backend=WANTED[0])
    with pytest.raises(
        ValueError, match=r"expected rows='dense' \(every row moves\) beside a rule that measures whole"
    ):
        opt.step([GRADIENT])


@pytest.mark.usefixtures("shim")
def test_parameters_on_a_device_are_refused() -> None:
    param = FakeArray(values(1, COUNT, 4, np.float32))
    opt = fu.SGD([param], lr=1.0)
    with pytest.raises(
        TypeError, match=r"\[sgd\] grads\[0\]: expected a dense gradient, beside parameters on a GPU, rec"
    ):
        opt.step([GRADIENT])
    assert opt.step_count == 0
