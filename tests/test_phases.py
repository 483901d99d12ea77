"""Rules whose step depends on sums: the same bytes everywhere, in parts too, and those of plain NumPy."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from cases import (
    BEST,
    DTYPES,
    ENGINES,
    EVERY_PHASED_CASE,
    NIGHTLY_DTYPES,
    PRODUCT,
    Case,
    arrays_of,
    assert_same_bits,
    by_backend,
    by_name,
    every_run,
    in_sample,
    isas,
)
from device_arrays import FakeArray
from phased import CASES, FIRST, OPTIONS, STEPS, gradients, problem
from plain_phases import Plain

import fastupdate as fu
from fastupdate import rules
from fastupdate.arrays import device
from fastupdate.rules.adafactor import Adafactor
from fastupdate.rules.lamb import Lamb
from fastupdate.rules.muon import Muon
from fastupdate.rules.prodigy import Prodigy
from fastupdate.step import extents
from fastupdate.step.transaction import in_turn

# The sample under all options, every other rule under none; on older instruction sets the sample alone, under none.
EVERY = [(c, o) for c in EVERY_PHASED_CASE for o in OPTIONS if c in CASES or o == "plain"]
RUNS = [(c, o, engine) for c, o in EVERY for engine in (ENGINES if c in CASES and o == "plain" else BEST)]
# The stand-in's arrays cannot be multiplied: tests/gpu does that. Stages have no sums of their own on a GPU, and are
# refused by name (test_cuda_steps.py).
ON_GPUS = [
    (c, o, t)
    for c, o in EVERY
    if rules.get(c.rule).rule.matrix is None and o not in ("sums", "hyperball")
    for t in (DTYPES if c in CASES and o == "plain" else NIGHTLY_DTYPES)
    if PRODUCT or o == "plain" or c in FIRST
]


def run(case: Case, dtype: Any, options: str, backend: str, threads: int) -> dict[str, Any]:
    """What some steps leave behind, and what the last one reports."""
    start, targets = problem(case, dtype)
    params = [p.copy() for p in start]
    fu.set_num_threads(threads)
    opt = case.make(params, backend=backend, **OPTIONS[options])
    for _ in range(STEPS):
        grads = gradients(params, targets)
        report = opt.step(grads)
    left: dict[str, Any] = {**arrays_of(opt), "grads": grads}
    return (
        left
        if report.tensors is None
        else {**left, "statistics": [report.tensors[f] for f in ("grad_norm", "update_norm")]}
    )


@lru_cache(2)  # both types
def baseline(case: Case, dtype: Any, options: str) -> dict[str, Any]:
    return run(case, dtype, options, "native" if isas() else "numba", 1)


def kept_apart(left: dict[str, Any]) -> dict[str, Any]:
    return {kind: [np.array(device.on_host(a)) for a in arrays] for kind, arrays in left.items()}


@every_run(RUNS)
def test_every_engine_and_any_number_of_threads_leave_the_same_bytes(
    case: Case, dtype: Any, options: str, engine: Any
) -> None:
    expected = baseline(case, dtype, options)
    for threads in (1, 2, 3, 7) if engine.isa and case in CASES and (PRODUCT or options == "plain") else (3,):
        actual = run(case, dtype, options, engine.select(), threads)
        for kind, arrays in expected.items():
            assert_same_bits(actual[kind], arrays, f"{kind}, {threads} threads")


@pytest.mark.parametrize(("case", "options", "dtype"), ON_GPUS, ids=by_name)
def test_the_kernels_of_gpus_leave_the_same_bytes(case: Case, dtype: Any, options: str, shim: Any) -> None:
    start, targets = problem(case, dtype)
    expected_params, params = [p.copy() for p in start], [FakeArray(p) for p in start]
    expected, opt = (case.make(p, **OPTIONS[options]) for p in (expected_params, params))
    for _ in range(STEPS):
        grads = gradients(expected_params, targets)
        opt.step([FakeArray(g) for g in grads])
        expected.step(grads)
    actual = kept_apart(arrays_of(opt))
    for kind, arrays in arrays_of(expected).items():
        assert_same_bits(actual[kind], arrays, kind)


# Rules of one's own with the text of the library's.
@fu.rule
class OwnLamb(Lamb):
    """The same as Lamb."""


@fu.rule
class OwnAdafactor(Adafactor):
    """The same as Adafactor."""


@fu.rule
class OwnProdigy(Prodigy):
    """The same as Prodigy."""


@fu.rule
class OwnMuon(Muon):
    """The same as Muon."""


@pytest.mark.parametrize(
    ("case", "options", "dtype"),
    [(c, o, d) for c in CASES for o in OPTIONS for d in NIGHTLY_DTYPES],
    ids=by_name,
)
def test_rules_of_ones_own_leave_the_bytes_of_the_library_s(case: Case, options: str, dtype: Any) -> None:
    start, targets = problem(case, dtype)
    own = {"lamb": OwnLamb, "adafactor": OwnAdafactor, "prodigy": OwnProdigy, "muon": OwnMuon}[case.rule]
    whole, others = ([p.copy() for p in start] for _ in range(2))
    opts = case.make(whole, **OPTIONS[options]), own(others, **{**case.kwargs, **OPTIONS[options]})
    for _ in range(STEPS):
        for opt, params in zip(opts, (whole, others), strict=True):
            opt.step(gradients(params, targets))
    assert repr(opts[1]).count("native")
    expected, actual = map(arrays_of, opts)
    for kind, arrays in expected.items():
        assert_same_bits(actual[kind], arrays, kind)


# ---- plain NumPy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "dtype"), [(c, d) for c in CASES for d in (DTYPES if c in FIRST else NIGHTLY_DTYPES)], ids=by_name
)
def test_plain_numpy_leaves_the_same_bytes(case: Case, dtype: Any) -> None:
    start, targets = problem(case, dtype)
    params = [p.copy() for p in start]
    opt, plain = case.make(params), Plain(case, [p.copy() for p in start])
    for _ in range(STEPS):
        plain.step(gradients(plain.params, targets))
        opt.step(gradients(params, targets))
    assert_same_bits(params, plain.params, "params")
    for name, kept in opt.state.items():
        k = opt.rule.states.index(name)
        assert_same_bits(kept, [states[k] for states in plain.states], name)


# ---- a step in parts ------------------------------------------------------------------------------------------------

FIRST_HYPERS = {"lr": 0.01, "weight_decay": 0.03, "max_precondition_dim": 40}
ALL = [
    *(
        Case(name, "first", {key: x for key, x in FIRST_HYPERS.items() if key in rule.hypers})
        for name, rule in rules.every().items()
    ),
    *CASES,
]


def in_parts(case: Case, backend: str, options: str) -> bool:
    """The sample on both backends, natively under all options; else without a stage, and with stages that have sums."""
    sample, native = in_sample(case), backend == "native"
    return (sample or native) and (PRODUCT or (sample and native) or options in ("plain", "sums"))


@pytest.mark.parametrize(
    ("case", "backend", "options"),
    [(c, b, o) for c in ALL for b in ("native", "numba") for o in OPTIONS if in_parts(c, b, o)],
    ids=str,
)
def test_tensors_moved_one_by_one_in_backward_order_end_as_in_a_whole_step(
    case: Case, backend: str, options: str
) -> None:
    start, targets = problem(case, np.float32)
    whole, parts = ([p.copy() for p in start] for _ in range(2))
    has_decay = "weight_decay" in rules.get(case.rule).rule.hypers
    without = {"clip_norm", "clip_unit_norm", *([] if has_decay else ["weight_decay", "decay"])}
    settings = {k: v for k, v in OPTIONS[options].items() if k not in without}
    opts = [case.make(params, backend=backend, **settings) for params in (whole, parts)]
    for _ in range(STEPS):
        opts[0].step(gradients(whole, targets))
        stepper, grads = opts[1].stepper, gradients(parts, targets)
        opts[1].bind(grads)
        stepper.derive()
        stepper.engine.measure(-1.0 if "maximize" in settings else 1.0, 0)
        if stepper.rule.matrix is not None:
            in_turn(extents.multiply(stepper.rule, stepper.flags, stepper.plan))
        stepper.engine.measure_again()
        for k in reversed(range(len(parts))):
            stepper.engine.move(k, k + 1)
        stepper.engine.advance()
    expected, actual = (arrays_of(opt) for opt in opts)
    for kind, arrays in expected.items():
        assert_same_bits(actual[kind], arrays, kind)
    assert opts[1].step_count == STEPS


@pytest.mark.parametrize("rule", [name for name in rules.names() if rules.get(name).rule.states_of("list")])
@by_backend
def test_numbers_of_the_list_stay_where_no_element_moves(rule: str, backend: str) -> None:
    """As where no tensor does: the gradients that there are belong to tensors without elements."""
    params = {"empty": np.zeros((0, 3)), "w": np.ones((4, 3))}
    opt = rules.get(rule)(params, missing="skip", backend=backend)
    for k in range(3):
        opt.step({"empty": np.zeros((0, 3)), "w": np.full((4, 3), 1.0 + k)})
    before = {name: float(np.asarray(opt.state[name]["w"])) for name in opt.rule.states_of("list")}
    opt.step({"empty": np.zeros((0, 3))})
    assert before == {name: float(np.asarray(opt.state[name]["w"])) for name in opt.rule.states_of("list")}
