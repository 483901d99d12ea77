"""The policy on outliers: what it judges, and steps that it leaves out."""

from __future__ import annotations

import json
import math
from typing import Any

import device_arrays
import numpy as np
import pytest
from cases import (
    FIRST_CASES,
    Case,
    arrays_of,
    assert_same_bits,
    by_backend,
    by_rule,
    exactly,
    fingerprint,
    random_arrays,
)
from reference import sum_of_squares

import fastupdate as fu
from fastupdate.arrays import device
from fastupdate.arrays.place import Place
from fastupdate.step.outliers import Outliers, Verdict


def noisy(n: int, seed: int = 0) -> np.ndarray:
    return np.exp(0.2 * np.random.default_rng(seed).standard_normal(n))


def judged(outliers: Outliers, *figures: float) -> Verdict:
    """What is said of a step, which then is a part of the past."""
    verdict = outliers.judge(*figures)
    function, *arguments = outliers.taking(verdict)
    function(*arguments)
    return verdict


def test_what_is_far_out_is_skipped_and_what_is_not_is_not() -> None:
    outliers = Outliers(5, 50)
    assert not any(judged(outliers, *pair).reason for pair in zip(noisy(200), noisy(200, 1) - 3, strict=True))
    assert judged(outliers, 100.0, -2.0).quantity == "grad_norm"
    assert judged(outliers, 1.0, 40.0).quantity == "loss"
    assert judged(outliers, 1e-6, -100.0).reason is None  # only what is too large
    assert judged(outliers, 1.0).reason is None  # a loss that is not known


def test_deviations_are_those_of_the_recent_past() -> None:
    outliers, losses = Outliers(3, 10), noisy(30)
    for loss in losses:
        judged(outliers, 1.0, loss)
    mean, spread = losses[-10:].mean(), losses[-10:].std(ddof=1)
    verdict = judged(outliers, 1.0, mean + 7 * spread)
    assert (verdict.quantity, verdict.deviations) == ("loss", pytest.approx(7))
    assert verdict.reason == "loss 7 standard deviations above the last 10"
    assert outliers.state_dict()["loss"][-1] == pytest.approx(mean + 3 * spread)


@pytest.mark.parametrize("window", [10, 50, 200])
def test_another_level_for_good_is_followed(window: int) -> None:
    outliers = Outliers(6, window)
    for norm in noisy(window):
        judged(outliers, norm)
    skipped = [judged(outliers, 1000 * norm).reason for norm in noisy(window, 1)]
    assert skipped[0]
    assert not any(skipped[window // 8 + 5 :])


def test_nothing_is_judged_by_too_few_or_by_equal_values() -> None:
    outliers = Outliers(1, 20)
    assert not any(judged(outliers, 1.0, 10.0**k).reason for k in range(10))
    flat = Outliers(6, 20)
    for _ in range(20):
        judged(flat, 1.0, 0.0)
    assert judged(flat, 1.05, 0.1).reason is None  # within 6 %, and no scale for the loss
    assert judged(flat, 1.1, 0.0).quantity == "grad_norm"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_left_to_the_other_policy(value: float) -> None:
    outliers = Outliers(5, 20)
    for norm in noisy(30):
        judged(outliers, norm, norm)
    before = outliers.state_dict()
    assert judged(outliers, value, value).reason is None
    assert outliers.state_dict() == before


# -- steps ------------------------------------------------------------------------------------------------------------

SIZES = [1500, 7]
K, WINDOW, STEPS = 4.0, 20, 60
WILD = {"grad_norm": (25, 26, 40), "loss": (30, 45)}  # the steps that are made outliers, and in what


def figures(dtype: Any = np.float32) -> tuple[list[list[np.ndarray]], list[float]]:
    """Gradients and losses of some steps."""
    scales, losses = noisy(STEPS, 3), list(noisy(STEPS, 4) - 3)
    for k in WILD["grad_norm"]:
        scales[k] *= 50
    for k in WILD["loss"]:
        losses[k] += 20
    grads = random_arrays(5, SIZES, dtype)
    return [[dtype(scale) * g for g in grads] for scale in scales], losses


def expected_skips(grads: list[list[np.ndarray]], losses: list[float]) -> list[str | None]:
    """By the description of the policy, in plain NumPy: the worse of the two quantities in each step, if any is out."""
    logs = [math.log(math.sqrt(sum(sum_of_squares(g) for g in step))) for step in grads]
    pasts: dict[str, list[float]] = {"grad_norm": [], "loss": []}
    found: list[str | None] = []
    for values in zip(logs, losses, strict=True):
        out: dict[str, float] = {}
        for (name, past), value in zip(pasts.items(), values, strict=True):
            recent = np.array(past[-WINDOW:])
            if len(recent) >= 10:
                mean, spread = recent.mean(), recent.std(ddof=1)
                spread = max(spread, 0.01 if name == "grad_norm" else 0.01 * abs(mean))
                if value > mean + K * spread:
                    out[name] = (value - mean) / spread
                    value = mean + K * spread
            past.append(value)
        found.append(max(out, key=lambda name: out[name]) if out else None)
    return found


def told(report: fu.Report) -> str | None:
    """The first word of the reason."""
    assert report.skipped == (report.reason is not None)
    return report.reason and report.reason.split()[0]


@pytest.mark.parametrize("way", ["whole", "micro-batches", "samples"])
@by_backend
@by_rule
def test_outliers_leave_everything_as_it_was(case: Case, backend: str, way: str) -> None:
    """Afterwards all is as if the other steps had been the only ones."""
    grads, losses = figures()
    skips = expected_skips(grads, losses)
    assert [k for k, name in enumerate(skips) if name] == sorted(WILD["grad_norm"] + WILD["loss"])
    options = {"lr": 1e-3, "zero_grads": way == "whole", "ema_decay": 0.9, "backend": backend}
    ours = case.make(random_arrays(1, SIZES, np.float32), outliers=(K, WINDOW), **options)
    plain = case.make(random_arrays(1, SIZES, np.float32), **options)
    for k, (step, loss) in enumerate(zip(grads, losses, strict=True)):
        given = [8 * g for g in step]
        if way == "micro-batches":
            for part in (0.5, 1.5):
                ours.accumulate([np.float32(part) * g for g in given])
            report = ours.step(loss_scale=8, loss=loss)
        elif way == "samples":
            report = ours.step([np.stack([g, g]) for g in given], loss_scale=8, reduce="mean", loss=loss)
        else:
            report = ours.step(given, loss_scale=8, loss=np.float64(loss))
            assert not any(g.any() for g in given)
        assert told(report) == skips[k]
        if not skips[k]:
            plain.step([8 * g for g in step], loss_scale=8)
    assert ours.step_count == plain.step_count == skips.count(None)
    for kind, arrays in arrays_of(plain).items():
        assert_same_bits(arrays_of(ours)[kind] if kind != "accumulator" else [], arrays, kind)


def warm(**options: Any) -> fu.Optimizer:
    """An optimizer that has seen a window of ordinary steps."""
    opt = fu.Adam([np.ones(3)], outliers=(K, WINDOW), **options)
    for norm in noisy(WINDOW):
        opt.step([np.full(3, norm)], loss=1 + norm)
    return opt


def test_a_loss_need_not_be_told_and_need_not_be_finite() -> None:
    opt = warm()
    assert told(opt.step([np.ones(3)])) is None
    assert told(opt.step([np.ones(3)], loss=np.nan)) is None
    assert told(opt.step([np.ones(3)], loss=np.array(99.0))) == "loss"
    assert told(opt.step([np.full(3, np.nan)], loss=1.0)) is None  # propagated, as that policy says


@by_backend
def test_both_policies_count_as_skipped_steps(backend: str) -> None:
    opt = warm(backend=backend, nonfinite="skip", max_skips=3)
    good, wild, bad = ([np.full(3, x)] for x in (1.0, 1e3, np.nan))
    reasons = [opt.step(grads).reason for grads in (bad, wild, bad)]
    assert [str(reason).split()[0] for reason in reasons] == ["gradients", "grad_norm", "gradients"]
    words = "expected {} after 3 skipped steps in a row \\(max_skips\\), received {}"
    for grads, what, received in (
        (wild, "an ordinary step", "one with its grad_norm .* standard deviations above the last 20"),
        (bad, "finite values", "3 that are not"),
    ):
        before = exactly(opt.state_dict()["arrays"]), fingerprint(opt), opt.stepper.skips.outliers.state_dict()
        with pytest.raises(FloatingPointError, match=r"\[adam\] grads.*: " + words.format(what, received)):
            opt.step(grads)
        assert (
            exactly(opt.state_dict()["arrays"]),
            fingerprint(opt),
            opt.stepper.skips.outliers.state_dict(),
        ) == before
    assert not opt.step(good).skipped
    assert opt.stepper.skips.count == 0


def test_a_step_that_fails_is_no_part_of_the_past() -> None:
    opt = fu.Adam([np.ones(3)], outliers=(K, WINDOW), clip_norm=1e-30)
    before = opt.stepper.skips.outliers.state_dict()
    with pytest.raises(ValueError, match="clip_norm: expected a limit that float64 can scale"):
        opt.step([np.full(3, 1e300)], loss=1.0)
    assert opt.stepper.skips.outliers.state_dict() == before


@pytest.mark.parametrize("file", [False, True], ids=["dict", "file"])
def test_a_resumed_run_skips_the_same_steps(file: bool, tmp_path: Any) -> None:
    if file:
        pytest.importorskip("safetensors", reason="files need safetensors")
    grads, losses = figures()
    case = FIRST_CASES[0]
    runs = [case.make(random_arrays(1, SIZES, np.float32), outliers=(K, WINDOW), max_skips=9) for _ in range(2)]
    for k, (step, loss) in enumerate(zip(grads, losses, strict=True)):
        if k == 26:  # one step was skipped, the next one is to be
            runs[0].save(tmp_path / "x") if file else None
            saved = fu.load(tmp_path / "x") if file else json_of(runs[0].state_dict())
            runs[1].load_state_dict(saved)
            assert runs[1].stepper.skips.count == 1
        reports = [run.step(step, loss=loss) for run in (runs if k >= 26 else runs[:1])]
        assert len({str(report) for report in reports}) == 1
        assert told(reports[0]) == expected_skips(grads, losses)[k]
    if file:
        assert fingerprint(runs[0]) == fingerprint(runs[1])


def json_of(state: dict[str, Any]) -> dict[str, Any]:
    """A state whose plain part went through JSON."""
    arrays = state.pop("arrays")
    return {**json.loads(json.dumps(state)), "arrays": arrays}


WRONG_STATES: dict[str, Any] = {
    "one of two": {"loss": [1.0]},
    "nan": {"loss": [1.0], "grad_norm": [math.nan]},
    "a number": {"loss": 1.0, "grad_norm": []},
    "more": {"loss": [], "grad_norm": [], "x": []},
    "words": {"loss": ["x"], "grad_norm": []},
}


@pytest.mark.parametrize("state", WRONG_STATES.values(), ids=WRONG_STATES)
def test_a_wrong_past_is_refused_and_nothing_has_changed(state: Any) -> None:
    opt = warm()
    before, saved = opt.stepper.skips.outliers.state_dict(), opt.state_dict()
    words = r"\[adam\] state_dict\['outliers'\]: expected lists of finite numbers for grad_norm and loss"
    with pytest.raises(ValueError, match=words):
        opt.load_state_dict({**saved, "outliers": state})
    assert opt.stepper.skips.outliers.state_dict() == before
    with pytest.raises(ValueError, match=words):
        Outliers(4.0, 20).restoring(Place("adam", "state_dict['outliers']"), [1.0])


def test_the_option_is_kept_or_missed_by_name() -> None:
    opt, without = warm(), fu.Adam([np.ones(3)])
    with pytest.raises(ValueError, match=r"state_dict\['outliers'\]: expected no such entry, received one"):
        without.load_state_dict(opt.state_dict())
    with pytest.raises(ValueError, match=r"state_dict\['outliers'\]: expected an entry, received none"):
        opt.load_state_dict(without.state_dict())
    assert without.load_state_dict(opt.state_dict(), strict=False).unexpected_keys == ["outliers"]
    past = opt.stepper.skips.outliers.state_dict()
    assert opt.load_state_dict(without.state_dict(), strict=False).missing_keys == ["outliers"]
    assert opt.stepper.skips.outliers.state_dict() == past


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "loss without the option": (
        lambda: fu.Adam([np.ones(3)]).step([np.ones(3)], loss=1.0),
        ValueError,
        r"loss: expected None, unless the option outliers=\(k, window\) is to judge it, received 1.0",
    ),
    "a loss that is none": (
        lambda: warm().step([np.ones(3)], loss="1"),
        TypeError,
        "loss: expected a number, received '1'",
    ),
    "functional": (
        lambda: fu.functional.adam(*([np.ones(3)] for _ in range(4)), step=1, outliers=(K, WINDOW)),
        ValueError,
        r"outliers: expected nothing that is remembered from step to step \(fu.Adam does\)",
    ),
    "max_skips alone": (
        lambda: fu.Adam([np.ones(3)], max_skips=2),
        ValueError,
        "max_skips: expected None, unless nonfinite='skip' or outliers",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"\[adam\] {message}"):
        call()


# -- devices ----------------------------------------------------------------------------------------------------------

ON_A_DEVICE: dict[str, dict[str, Any]] = {
    "alone": {},
    "clip_norm": {"clip_norm": 0.5, "monitor": True},
    "clip_tensor_norm": {"clip_tensor_norm": 0.5, "nonfinite": "skip", "max_skips": 3},
    "clip_unit_norm": {"clip_unit_norm": 0.05, "maximize": True, "zero_grads": True},
    "raise": {"nonfinite": "raise", "lookahead": (2, 0.5)},
}


@pytest.mark.usefixtures("shim")
@pytest.mark.parametrize("options", ON_A_DEVICE.values(), ids=ON_A_DEVICE)
@by_rule
def test_a_device_lets_the_host_decide(case: Case, options: dict[str, Any]) -> None:
    """With the bytes and the reports of the host, and whatever else is decided by the gradients."""
    made = [device_arrays.FakeArray(a) for a in random_arrays(1, SIZES, np.float32)]
    there = case.make(made, outliers=(K, WINDOW), **options)
    host = case.make(random_arrays(1, SIZES, np.float32), outliers=(K, WINDOW), **options)
    grads, losses = figures()
    if "max_skips" in options:
        grads[33][1][3] = np.nan
    for k, (step, loss) in enumerate(zip(grads, losses, strict=True)):
        if k % 7 == 3:
            for opt, wrap in ((host, np.array), (there, device_arrays.FakeArray)):
                opt.accumulate([wrap(0.25 * g) for g in step])
                opt.accumulate([wrap(1.75 * g) for g in step])
            reports = [opt.step(loss=loss) for opt in (host, there)]
        else:
            buffers = [device_arrays.FakeArray(g) for g in step]
            reports = [host.step([np.array(g) for g in step], loss=loss), there.step(buffers, loss=loss)]
            assert any(b.get().any() for b in buffers) != options.get("zero_grads", False)
        assert repr(reports[1]) == repr(reports[0])
        assert reports[0].skipped or k not in WILD["grad_norm"]
    assert there.step_count == host.step_count < STEPS
    for kind, arrays in arrays_of(host).items():
        there_too = [np.array(device.on_host(a)) for a in arrays_of(there)[kind]]
        assert_same_bits(there_too, arrays, kind) if kind != "accumulator" else None
    assert there.stepper.skips.outliers.state_dict() == host.stepper.skips.outliers.state_dict()


@pytest.mark.usefixtures("shim")
def test_a_step_that_the_host_decides_cannot_be_captured(shim: Any) -> None:
    there = fu.Adam([device_arrays.FakeArray(np.ones(3, np.float32))], outliers=(K, WINDOW))
    gradients = [device_arrays.FakeArray(np.ones(3, np.float32))]
    shim.begin_capture(device_arrays.STREAM)
    try:
        with pytest.raises(RuntimeError, match="looks for outliers waits for the device: it cannot be captured"):
            there.step(gradients)
    finally:
        shim.end_capture(device_arrays.STREAM)
    assert there.step_count == 0
