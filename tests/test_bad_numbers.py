"""Rows 10 to 15 and 24 of the fault table: bad numbers and options are refused; hard ones are computed right."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from cases import (
    BACKENDS,
    CASES,
    FIRST_CASES,
    PRODUCT,
    arrays_of,
    assert_same_bits,
    by_backend,
    by_rule,
    cases_of,
    fingerprint,
)
from reference import Reference
from unchanged import SHAPES, raises_unchanged, tensors

import fastupdate as fu

ADAM = cases_of("adam")[0]


def bad_values(interval: Any) -> list[Any]:
    values: list[Any] = [np.nan, -np.inf, None, "0.1", [0.1], 1j, np.array([0.1])]
    values += [x for x in (np.inf, -0.5, 0.5, 1.0, 1.5, 2.0) if x not in interval]
    return values


HYPERS = [
    (case, name)
    for case in (cases_of(name)[0] for name in fu.rules.every())
    for name in fu.rules.get(case.rule).rule.hypers
]


@pytest.mark.parametrize(("case", "name"), HYPERS, ids=[f"10-{c.rule}-{name}" for c, name in HYPERS])
def test_bad_hyperparameter(case, name):
    """At construction, set later, and returned by a schedule."""
    of_matrices = fu.rules.get(case.rule).rule.matrix is not None
    made, grads = ([a for a in tensors(seed) if a.ndim == 2 or not of_matrices] for seed in (0, 1))
    opt = case.make(made)
    opt.step(grads)
    before = fingerprint(opt)
    off = {hyper for flag, hyper in opt.rule.flag_hypers.items() if not opt.stepper.flags[flag]}
    for value in bad_values(opt.rule.hypers[name]):
        with pytest.raises((TypeError, ValueError), match=rf"\[{case.rule}\] {name}: expected .* received"):
            case.make(made, groups=[{"params": "*", name: value}])
        with pytest.raises((TypeError, ValueError), match=rf"\[{case.rule}\] {name}: expected .* received"):
            opt.groups[0][name] = value
        assert fingerprint(opt) == before
        good, schedule = opt.groups[0][name], lambda step, value=value: value
        if name in off | opt.rule.made_by:  # a schedule comes too late
            with pytest.raises((TypeError, ValueError), match=rf"\[{case.rule}\] {name}: expected .* received"):
                case.make(made, groups=[{"params": "*", name: schedule}])
            continue
        opt.groups[0][name] = schedule
        raises_unchanged(opt, grads, (TypeError, ValueError), f"{name}: expected .* received")
        opt.groups[0][name] = good
    opt.step(grads)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (name, hyper)
        for name, rule in fu.rules.every().items()
        for hyper, interval in rule.hypers.items()
        if interval.whole and not interval.truth
    ],
)
def test_how_often_is_a_whole_number(rule: str, name: str) -> None:
    """Of whatever type."""
    make, params = fu.rules.get(rule), [np.ones((3, 4))]
    for value in (2.5, np.float32(0.5), lambda step: 1.5):
        with pytest.raises(ValueError, match=rf"\[{rule}\] {name}: expected an integer ≥ [01], received .*\.5"):
            make(params, **{name: value}).step(params)
    make(params, **{name: 3.0}).step([np.ones((3, 4))])


OPTIONS: dict[str, list[Any]] = {
    "clip_norm": [0, -1.0, np.nan, np.inf, True, "1"],
    "clip_tensor_norm": [0, -1.0, np.nan, np.inf],
    "clip_unit_norm": [0, -1.0, np.nan, np.inf],
    "clip_value": [-1.0, np.nan, "1", (1.0,), (1.0, 2.0, 3.0), (2.0, 1.0)],
    "l1": [-1.0, np.nan, np.inf],
    "ema_decay": [-0.1, 1.01, np.nan],
    "nonfinite": ["ignore", True],
    "max_skips": [0, -1, 2.0, True, 3],  # 3: only with nonfinite="skip"
    "l1_mode": ["lasso"],
    "decay": ["L2"],
    "peak_lr": [0.1],  # only with decay="corrected"
    "cautious": ["median", None, 2],
    **{
        name: ["no", 0.1, None, np.array([True, False]), b""]
        for name in ("centralize", "trust_ratio", "keep_norm", "zero_grads", "maximize", "monitor", "amsgrad")
    },
    "optimism_norm": [0.0, -1.0, np.nan, "1"],
    "shadow": ["float32", np.float16],
    "outliers": [5, (0, 20), (np.inf, 20), (True, 20), (5, 9), (5, 20.5), (5, True), (5, 20, 1)],
    "lookahead": [5, (0, 0.5), (5, 0.0), (5, 1.5), (5.5, 0.5), (5, np.nan)],
    "backend": ["cuda!", ""],
}
BAD_OPTIONS = [(name, value) for name, values in OPTIONS.items() for value in values]


@pytest.mark.parametrize(("name", "value"), BAD_OPTIONS, ids=[f"10-{n}-{v!r}" for n, v in BAD_OPTIONS])
def test_bad_option(name, value):
    with pytest.raises((TypeError, ValueError), match=rf"\[adam\] {name}: expected"):
        fu.Adam(tensors(), **{name: value})


UNKNOWN = {
    "weight_decy": "did you mean weight_decay?",
    "Lr": "did you mean lr?",
    "fused": "there are lr, betas, eps, weight_decay, amsgrad, corrected_max, eps_hat, uncorrected, l1, ",
    "clipnorm": "did you mean clip_norm?",
    "options": "did you mean optimism? there are lr,",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_1_unknown_option(name):
    with pytest.raises(TypeError, match=rf"\[adam\] {name}: no such option[,;] {re.escape(UNKNOWN[name])}") as caught:
        fu.Adam(tensors(), **{name: 0.1})
    assert all(option in str(caught.value) for option in ("lr", "amsgrad", "clip_norm", "groups", "backend"))


@by_backend
@pytest.mark.parametrize(
    "loss_scale", [0, -1.0, np.nan, np.inf, True, "1", None, 1e-320, 1j, np.complex64(1), np.ones(2)], ids=repr
)
def test_10_loss_scale(backend, loss_scale):
    kinds = (TypeError, ValueError)
    raises_unchanged(ADAM.make(tensors(), backend=backend), tensors(1), kinds, "loss_scale", loss_scale=loss_scale)


@by_backend
@pytest.mark.parametrize("policy", ["propagate", "skip", "raise"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=repr)
@by_rule
def test_12_nonfinite_gradient(case, backend, policy, value):
    params = tensors()
    reference = Reference(case, params)
    opt = case.make(params, backend=backend, nonfinite=policy)
    opt.step(tensors(1))
    reference.step(tensors(1))
    for k in range(len(SHAPES)):
        grads = tensors(2)
        grads[k].reshape(-1)[-1] = value
        if policy == "raise":
            words = rf"grads\[{k}\]: expected finite values, received 1"
            raises_unchanged(opt, grads, FloatingPointError, words)
        elif policy == "skip":
            before = fingerprint(opt, *grads)
            report = opt.step(grads)
            assert (report.skipped, report.nonfinite, report.step) == (True, 1, 1)
            assert fingerprint(opt, *grads) == before
        else:
            opt.step(grads)
            reference.step(grads)
            assert_same_bits(params, reference.params, "params")


@by_backend
@by_rule
def test_13_norm_beyond_float32(case, backend):
    """10²⁰ squares to infinity in float32; the clipped gradient is still a unit vector."""
    huge = [np.full(s, 1e20, np.float32) for s in SHAPES]
    count = sum(g.size for g in huge)
    for option, norms in (("clip_norm", [count] * len(SHAPES)), ("clip_tensor_norm", [g.size for g in huge])):
        params = tensors()
        report = case.make(params, backend=backend, **{option: 1.0}).step(huge)
        unit = [np.full(s, 1 / np.sqrt(n), np.float32) for s, n in zip(SHAPES, norms, strict=True)]
        expected = tensors()
        case.make(expected, backend=backend).step(unit)
        assert report.grad_norm == pytest.approx(1e20 * np.sqrt(count), rel=1e-7)
        for p, q in zip(params, expected, strict=True):
            np.testing.assert_allclose(p, q, rtol=3e-7)


@by_backend
@pytest.mark.parametrize("step", [2**24 - 1, 2**24, 2**31 - 1, 2**31, 2**53, 2**61], ids=str)
@by_rule
def test_14_many_steps(case, backend, step):
    """Step counts are int64, corrections float64: the bits of the reference, which counts in Python's integers."""
    params = tensors()
    reference = Reference(case, params)
    reference.t = step - 1
    opt = case.make(params, backend=backend)
    opt.start_at(step)
    for k in range(3):
        report = opt.step(tensors(k))
        reference.step(tensors(k))
        assert report.step == opt.step_count == step + k
    assert_same_bits(params, reference.params, "params")


@by_backend
@by_rule
def test_15_zero_gradient(case, backend):
    params = [np.zeros(40, np.float32), np.zeros(40)]
    opt = case.make(params, backend=backend)
    for _ in range(3):
        opt.step([np.zeros(40, np.float32), np.zeros(40)])
    assert not any(p.any() for p in params)


@pytest.mark.parametrize(
    ("case", "backend"),
    [
        pytest.param(case, *backend.values, marks=backend.marks, id=f"{case}-{backend.id}")
        for case in CASES
        for backend in BACKENDS
        if PRODUCT or case in FIRST_CASES or backend.values[0] == "native"
    ],
)
def test_24_denormal_states(case, backend):
    """States decay through the denormals with every bit."""
    params = [np.full(100, 1e-38, np.float32), np.full(100, 1e-308)]
    grads = [np.full(100, 3e-38, np.float32), np.full(100, 3e-308)]
    zero = [np.zeros(100, np.float32), np.zeros(100)]
    reference = Reference(case, params)
    opt = case.make(params, backend=backend)
    for k in range(60):
        opt.step(zero if k else grads)
        reference.step(zero if k else grads)
    for kind, values in reference.arrays().items():
        assert_same_bits(arrays_of(opt)[kind], values, kind)
