"""Statistics against NumPy in float64; what the monitor keeps and writes; its diagnoses, on networks that go wrong."""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CASES, FIRST_CASES, RULES, Case, by_backend, by_dtype, by_rule, random_arrays
from networks import MLP, RNN
from peers import peer
from reference import Reference, Tensor

import fastupdate as fu
from fastupdate.cli import main
from fastupdate.monitoring import diagnosis
from fastupdate.monitoring.diagnosis import Finding
from fastupdate.step.report import STATISTICS, Report

FIGURES = [name for name in STATISTICS.names if name not in ("name", "n")]
SHAPES = {"matrix": (37, 41), "block": (1024,), "tail": (1025,), "scalar": ()}
SIZES = [math.prod(shape) for shape in SHAPES.values()]

# -- statistics -------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip_norm": {"clip_norm": 0.1},
    "clip_tensor_norm": {"clip_tensor_norm": 0.1},
    "clip_unit_norm": {"clip_unit_norm": 0.01},
    "clip_value": {"clip_value": 0.5},
    "zero_grads": {"zero_grads": True},
    "maximize": {"maximize": True},
    "penalties": {"l1": 1e-3, "decay": "independent"},
    "lookahead": {"lookahead": (2, 0.5), "l1": 1e-2, "l1_mode": "proximal"},
}
COMBINED = [(case, "plain") for case in CASES] + [(c, name) for c in FIRST_CASES for name in list(OPTIONS)[1:]]
by_combination = pytest.mark.parametrize(("case", "options"), COMBINED, ids=[f"{c}-{o}" for c, o in COMBINED])


class Watched(Reference):
    """The reference step, which also notes each tensor's momentum beforehand and its stalled elements."""

    def step(self, *args: Any, **kwargs: Any) -> bool:
        self.notes: list[tuple[np.ndarray | None, int]] = []
        return super().step(*args, **kwargs)

    def _rule(self, tensor: Tensor, hyper: dict[str, float], g: np.ndarray, p: np.ndarray) -> np.ndarray:
        name = self.rule.momentum
        momentum = tensor.states[self.rule.states.index(name)] if name in self.kept else None
        delta = super()._rule(tensor, hyper, g, p)
        self.notes.append((momentum, int(((p + delta == p) & (delta != 0)).sum())))
        return delta


def norm(x: np.ndarray) -> float:
    return math.sqrt(math.fsum(np.square(x.astype(np.float64)).ravel()))


def expected_row(raw: np.ndarray, scale: float, before: np.ndarray, after: np.ndarray, momentum: Any) -> dict[str, Any]:
    """The statistics by definition. `momentum`: before the step, in favour of the gradient; None: there is none."""
    g, change = raw.astype(np.float64) * scale, (after - before).astype(np.float64)
    dot = math.nan if momentum is None else math.fsum((g * momentum).ravel())
    length = norm(momentum) if momentum is not None else math.nan
    return {
        "n": raw.size,
        "grad_norm": norm(g),
        "weight_norm": norm(after),
        "update_norm": norm(change),
        "update_ratio": norm(change) / norm(after),
        "largest_update": np.abs(change).max(),
        "nonfinite": 0,
        "zero_fraction": np.mean(raw == 0),
        "momentum_cosine": dot / (norm(g) * length) if length else math.nan,
    }


def problem(dtype: Any, seed: int) -> list[np.ndarray]:
    arrays = random_arrays(seed, SIZES, dtype)
    return [array.reshape(shape) for array, shape in zip(arrays, SHAPES.values(), strict=True)]


@by_dtype
@by_combination
def test_statistics_are_those_of_numpy(case: Case, options: str, dtype: Any) -> None:
    params = problem(dtype, 0)
    reference = Watched(case, params, **OPTIONS[options])
    opt = case.make(dict(zip(SHAPES, params, strict=True)), monitor=True, **OPTIONS[options])
    for step in range(1, 5):
        grads = problem(dtype, step)
        grads[0][::2] = 0
        befores = [p.copy() for p in reference.params]
        reference.step(grads, loss_scale=4.0)
        table = opt.step(dict(zip(SHAPES, [g.copy() for g in grads], strict=True)), loss_scale=4.0).tensors
        assert list(table["name"]) == list(SHAPES)
        sign = opt.rule.momentum_sign * (-1 if OPTIONS[options].get("maximize") else 1)
        for row, g, before, after, (m, stalled) in zip(
            table, grads, befores, reference.params, reference.notes, strict=True
        ):
            assert row["stalled"] == stalled
            expected = expected_row(g, 0.25, before, after, None if m is None else sign * m)
            for name, value in expected.items():
                np.testing.assert_allclose(row[name], value, rtol=1e-13, atol=1e-15, err_msg=f"{name}, step {step}")


@by_backend
def test_reports_can_be_looked_at_later(backend: str) -> None:
    """The sums of a report are used again two steps later; whoever still has the report sees the same figures."""
    now, later = (fu.Adam(problem(np.float32, 0), monitor=True, clip_norm=1.0, backend=backend) for _ in range(2))
    steps = [problem(np.float32, k) for k in range(1, 6)]
    at_once = [repr(now.step(grads).tensors.tolist()) for grads in steps]
    kept = [later.step(grads) for grads in steps]
    assert [repr(report.tensors.tolist()) for report in kept] == at_once


MICRO_BATCHES = {
    "accumulated": lambda opt, samples: [opt.accumulate([g]) for g in samples] and opt.step(),
    "mean": lambda opt, samples: opt.step([samples], reduce="mean"),
    "sum": lambda opt, samples: opt.step([samples / len(samples)], reduce="sum"),
}
MEANS = [pytest.param(step, id=name) for name, step in MICRO_BATCHES.items()]


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 0.1}, {"clip_tensor_norm": 0.1}], ids=["free", "clipped", "each"])
@pytest.mark.parametrize("take_step", MEANS)
def test_gradient_norm_is_that_of_the_mean_before_clipping(take_step, clip):
    samples = np.random.default_rng(0).standard_normal((4, 2000))
    report = take_step(fu.SGD([np.ones(2000)], monitor=True, **clip), samples)
    np.testing.assert_allclose(report.tensors["grad_norm"], np.linalg.norm(samples.mean(axis=0)), rtol=1e-13)


# Each: the update, and whether 1 + update rounds to 1 in float32. Below 1 half an ulp is 2⁻²⁵, above it is 2⁻²⁴.
ROUNDED = {
    -(2.0**-26): True,
    -(2.0**-25): True,
    -1.5 * 2.0**-25: False,
    2.0**-24: True,
    1.5 * 2.0**-24: False,
    0.0: False,
}


@by_backend
@pytest.mark.parametrize("repeats", [1, 400])
def test_stalled_elements_are_counted_exactly(backend, repeats):
    w = np.ones(len(ROUNDED) * repeats, np.float32)
    g = np.tile(-np.float32(list(ROUNDED)), repeats)
    row = fu.SGD([w], lr=1.0, monitor=True, backend=backend).step([g]).tensors[0]
    assert row["stalled"] == sum(ROUNDED.values()) * repeats
    assert (w != 1).sum() == 2 * repeats
    assert row["zero_fraction"] == 1 / len(ROUNDED)


@by_backend
def test_nonfinite_gradients_and_zeros_are_counted(backend):
    g = np.ones(3000)
    g[[0, 1024, 2999]] = np.nan, np.inf, -np.inf
    g[100:200], g[200:300] = 0.0, -0.0
    opt = fu.SGD([np.ones(3000), np.ones(5)], monitor=True, backend=backend)
    bad, good = opt.step([g, np.zeros(5)]).tensors
    assert (bad["nonfinite"], good["nonfinite"]) == (3, 0)
    assert (bad["zero_fraction"], good["zero_fraction"]) == (200 / 3000, 1.0)
    assert np.isnan([bad[name] for name in ("grad_norm", "weight_norm", "update_norm", "largest_update")]).all()
    assert good["update_norm"] == 0.0


WITH_MOMENTUM = [case for case in FIRST_CASES if case.make([np.ones(1)]).stepper.plan.tensors["momentum"][0] >= 0]


@pytest.mark.parametrize("maximize", [False, True], ids=["minimize", "maximize"])
@pytest.mark.parametrize("alternate", [1, -1], ids=["steady", "alternating"])
@pytest.mark.parametrize("case", WITH_MOMENTUM, ids=str)
def test_cosine_is_1_while_gradients_agree_and_minus_1_when_they_turn(case, alternate, maximize):
    g = np.random.default_rng(0).choice([-1.0, 1.0], 100)  # of one magnitude: some momenta are of normalised gradients
    opt = case.make([np.ones(100)], monitor=True, maximize=maximize, weight_decay=0.0)
    first, second = (opt.step([sign * g]).tensors["momentum_cosine"][0] for sign in (1, alternate))
    assert np.isnan(first)
    assert second == pytest.approx(alternate)


@by_rule
def test_monitoring_changes_no_bit(case):
    arrays = [], []
    for monitor, kept in zip((False, True), arrays, strict=True):
        opt = case.make(problem(np.float32, 0), monitor=monitor)
        for step in range(3):
            opt.step(problem(np.float32, 1 + step))
        kept += [item.array.tobytes() for item in opt.stepper.items]
        kept += [state.tobytes() for item in opt.stepper.items for state in item.states.values()]
    assert arrays[0] == arrays[1]


# -- the monitor ------------------------------------------------------------------------------------------------------


def record(monitor: fu.Monitor, steps: int, **options: Any) -> list[Report]:
    """Steps of Adam on two tensors, with the losses 1, 1/2, 1/3, …"""
    rng = np.random.default_rng(0)
    opt = fu.Adam({"w": rng.standard_normal((3, 4)), "b": np.zeros(4)}, monitor=True, **options)
    reports = []
    for t in range(1, steps + 1):
        reports.append(opt.step({"w": rng.standard_normal((3, 4)), "b": rng.standard_normal(4)}))
        monitor(reports[-1], loss=1 / t)
    return reports


def test_history_has_the_last_records():
    monitor = fu.Monitor(every=3, keep=4)
    reports = record(monitor, 20, clip_norm=0.5)[8:18:3]
    assert list(monitor.history["step"]) == [9, 12, 15, 18]
    np.testing.assert_array_equal(monitor.history["loss"], 1 / monitor.history["step"])
    for name in ("lr", "grad_norm", "clip_factor"):
        assert list(monitor.history[name]) == [getattr(report, name) for report in reports]
    assert (monitor.history["clip_factor"] < 1).all()


def test_tensors_have_a_row_for_each_record_and_tensor():
    monitor = fu.Monitor()
    reports = record(monitor, 3)
    assert list(monitor.tensors["step"]) == [1, 1, 2, 2, 3, 3]
    for name in STATISTICS.names:
        expected = np.concatenate([report.tensors[name] for report in reports])
        np.testing.assert_array_equal(monitor.tensors[name], expected)


def test_gradient_norm_is_over_all_tensors():
    monitor = fu.Monitor()
    reports = record(monitor, 2)
    expected = [np.linalg.norm(report.tensors["grad_norm"]) for report in reports]
    np.testing.assert_allclose(monitor.history["grad_norm"], expected, rtol=1e-15)


def test_an_empty_monitor_has_empty_tables_and_no_findings():
    monitor = fu.Monitor()
    assert (len(monitor.history), len(monitor.tensors), monitor.diagnose()) == (0, 0, [])


def test_skipped_steps_are_always_recorded():
    monitor = fu.Monitor(every=5)
    opt = fu.SGD([np.ones(3)], monitor=True, nonfinite="skip")
    for g in (np.ones(3), np.full(3, np.inf), np.ones(3)):
        monitor(opt.step([g]))
    assert monitor.history[["step", "nonfinite", "skipped"]].tolist() == [(1, 3, True)]
    assert len(monitor.tensors) == 0
    assert [finding.kind for finding in monitor.diagnose()] == ["exploding"]


def test_json_lines_hold_every_figure(tmp_path):
    with fu.Monitor(tmp_path / "new" / "run", every=2) as monitor:
        reports = record(monitor, 4, clip_norm=0.5)
        written = (tmp_path / "new" / "run" / "metrics.jsonl").read_text()  # at once, not only in the end
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    for line, report in zip(lines, reports[1::2], strict=True):
        assert (line["loss"], line["lr"], line["skipped"]) == (1 / report.step, 1e-3, False)
        assert (line["grad_norm"], line["clip_factor"]) == (report.grad_norm, report.clip_factor)
        rows = [(name, *figures.values()) for name, figures in line["tensors"].items()]
        assert rows == report.tensors.tolist()
        assert all(tuple(figures) == STATISTICS.names[1:] for figures in line["tensors"].values())


def test_json_lines_are_json_even_for_nan_and_infinity(tmp_path):
    def reject(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    opt = fu.SGD({"weights é": np.ones(3)}, monitor=True)
    with fu.Monitor(tmp_path) as monitor:
        monitor(opt.step({"weights é": np.array([1.0, np.inf, 2.0])}), loss=np.nan)
        monitor(opt.step({"weights é": np.zeros(3)}))
    first, second = (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()
    line = json.loads(first, parse_constant=reject)
    assert line["loss"] == "NaN"
    assert line["tensors"]["weights é"]["grad_norm"] == "Infinity"
    assert json.loads(second, parse_constant=reject)["loss"] is None


def events(folder: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """The scalars of TensorBoard's only event file: records of length, its CRC, the event, its CRC."""
    proto = peer("tensorboardX.proto.event_pb2")
    (path,) = folder.glob("events.out.tfevents.*")
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack_from("<Q", content)
        event = proto.Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        if event.summary.value:
            yield event.step, {value.tag: value.simple_value for value in event.summary.value}


def test_event_file_has_every_scalar(tmp_path):
    with fu.Monitor(tmp_path, every=2) as monitor:
        reports = record(monitor, 4)
    found = dict(events(tmp_path))
    assert list(found) == [2, 4]
    general = {"train/loss", "train/lr", "train/grad_norm", "train/clip_factor"}
    for step, values in found.items():
        assert set(values) == general | {f"{figure}/{name}" for figure in FIGURES for name in ("w", "b")}
        assert values["train/loss"] == 1 / step
        for row in reports[step - 1].tensors:
            for figure in FIGURES:
                assert values[f"{figure}/{row['name']}"] == np.float32(row[figure])


def test_event_file_leaves_out_what_is_not_known(tmp_path):
    with fu.Monitor(tmp_path) as monitor:
        monitor(fu.SGD({"w": np.ones(3)}, monitor=True).step({"w": np.full(3, np.nan)}))
    ((step, values),) = events(tmp_path)
    assert step == 1
    assert not {"train/loss", "momentum_cosine/w"} & set(values)
    assert math.isnan(values["grad_norm/w"])  # known, and worth seeing


def test_files_are_added_to(tmp_path):
    for _ in range(2):
        with fu.Monitor(tmp_path) as monitor:
            record(monitor, 3)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6


def test_without_tensorboardx_a_directory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install fastupdate\[tensorboard\]"):
        fu.Monitor(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    record(fu.Monitor(), 1)


WRONG = {
    "every": (lambda: fu.Monitor(every=0), r"every: expected an integer ≥ 1, received 0"),
    "keep": (lambda: fu.Monitor(keep=2.5), r"keep: expected an integer ≥ 1, received 2.5"),
    "no statistics": (lambda: fu.Monitor()(Report(1, 0.1)), r"report.tensors: expected .*monitor=True.* received None"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said(call, message):
    with pytest.raises(ValueError, match=rf"\[monitor\] {message}"):
        call()


# -- diagnoses --------------------------------------------------------------------------------------------------------

rng = np.random.default_rng(0)
POINTS = rng.random((400, 20)).astype(np.float32)
LABELS = ((POINTS - 0.5) @ rng.standard_normal((20, 5))).argmax(axis=1)
SEQUENCES = rng.standard_normal((400, 30, 4)).astype(np.float32)


def deep_sigmoid() -> MLP:
    return MLP((20, *[30] * 8, 5), "sigmoid", spread=1.0)


def relu(bias: float = 0.0, hidden: tuple[int, ...] = (40, 20), spread: float = math.sqrt(2)) -> MLP:
    return MLP((20, *hidden, 5), "relu", spread, bias)


def tanh() -> MLP:
    return MLP((20, 16, 5), "tanh", spread=1.0)


def follow(network: Any, opt: fu.Optimizer, steps: int, batch: int = 32, x: np.ndarray = POINTS) -> list[list[Finding]]:
    """Trains, and diagnoses after every ten steps."""
    monitor = fu.Monitor()
    order = np.random.default_rng(1)
    found = []
    with np.errstate(all="ignore"):
        for step in range(1, steps + 1):
            chosen = order.choice(len(x), batch, replace=False)
            loss, grads = network.gradients(x[chosen], LABELS[chosen])
            monitor(opt.step(grads), loss)
            if step % 10 == 0:
                found.append(monitor.diagnose())
    return found


def train(network: Any, rule: str, steps: int, batch: int = 32, x: np.ndarray = POINTS, **hypers: Any) -> list[Finding]:
    """What is found at the end."""
    opt = fu.rules.get(rule)(network.params, monitor=True, **hypers)
    return follow(network, opt, steps, batch, x)[-1]


def test_vanishing_in_a_deep_sigmoid_network():
    (finding,) = train(deep_sigmoid(), "sgd", 100, lr=0.1)
    assert finding.kind == "vanishing"
    assert finding.tensors == ("w1", "b1", "w2", "b2", "w3", "b3", "w4", "b4", "w5")
    assert "fade on their way back to w1, b1, w2, b2, w3, b3 and 3 more tensors" in str(finding)


def test_the_figures_of_a_vanishing_gradient_are_right():
    network = deep_sigmoid()
    _, grads = network.gradients(POINTS, LABELS)
    rms = {name: float(np.sqrt(np.mean(np.square(g, dtype=np.float64)))) for name, g in grads.items()}
    (finding,) = train(network, "sgd", 10, batch=len(POINTS), lr=0.0)  # nothing moves: all steps are alike
    output = max(rms[name] for name in ("b7", "w8", "b8", "w9", "b9"))
    expected = f"is {rms['w1']:.2g} in w1, {rms['w1'] / output:.2g} times the {output:.2g} at the output"
    assert expected in finding.text
    assert finding.text.endswith("(median of steps 1 to 10)")


def feed(grads: Iterable[dict[str, np.ndarray]], losses: Iterable[float | None] = repeat(None), **hypers: Any) -> Any:
    """What is found after steps of SGD from weights of one with these gradients."""
    monitor, opt = fu.Monitor(), None
    for g, loss in zip(grads, losses, strict=False):
        opt = opt or fu.SGD({name: np.ones_like(a) for name, a in g.items()}, monitor=True, **hypers)
        monitor(opt.step(g), loss)
    return monitor.diagnose()


def layers(*gradients: Any) -> dict[str, np.ndarray]:
    """Gradients of tensors a, b, c, …: constant, or arrays."""
    return {
        name: g if isinstance(g, np.ndarray) else np.full(9, g) for name, g in zip("abcdefgh", gradients, strict=False)
    }


SPARSE = np.where(np.arange(10000) == 3, 1.0, 0.0)  # its RMS over all elements is 0.01
# Each: gradients by tensor, and what is found. The last quarter of the tensors is the output.
DEPTHS = {
    "even": (layers(1.0, 1.0, 1.0, 1.0), None),
    "fading": (layers(1e-5, 1e-4, 1.0, 1.0), ("vanishing", "a", "b")),
    "hardly fading": (layers(2e-3, 2e-3, 1.0, 1.0), None),
    "growing": (layers(1e5, 1e4, 1.0, 1.0), ("exploding", "a", "b")),
    "hardly growing": (layers(500.0, 100.0, 1.0, 1.0), None),
    "small in between, as a bias in front of a normalisation": (layers(1.0, 1e-9, 1.0, 1.0), None),
    "small at the end, beside a large one": (layers(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1e-9), None),
    "sparse": (layers(SPARSE / 20, 1.0, 1.0, 1.0), None),
    "sparse and fading": (layers(SPARSE / 2000, 1.0, 1.0, 1.0), ("vanishing", "a")),
    "too few tensors for an order": (layers(1e-9, 1.0, 1.0), None),
}


@pytest.mark.parametrize(("gradients", "expected"), DEPTHS.values(), ids=DEPTHS)
def test_gradients_over_depth(gradients, expected):
    found = [(finding.kind, *finding.tensors) for finding in feed([gradients] * 20)]
    assert found == ([expected] if expected else [])


def test_what_was_wrong_before_nan_is_still_found():
    findings = feed([*[layers(1e-5, 1.0, 1.0, 1.0)] * 10, *[layers(np.nan, 1.0, 1.0, 1.0)] * 60])
    assert [(finding.kind, finding.tensors) for finding in findings] == [("exploding", ("a",)), ("vanishing", ("a",))]


def test_exploding_through_time_in_a_recurrent_network():
    (finding,) = train(RNN(4, 32, 5, spread=4.0), "sgd", 60, x=SEQUENCES, lr=1e-6)
    assert (finding.kind, finding.tensors) == ("exploding", ("wx", "wh", "bh"))
    assert "grow on their way back to wx, wh and bh" in finding.text


def test_exploding_while_recurrent_weights_grow():
    """By a tenth in each step, whatever the gradients: in training they are chaotic, and the last bit decides."""
    network, monitor, steps = RNN(4, 32, 5, spread=0.5), fu.Monitor(), []
    opt = fu.SGD(network.params, lr=0.0, monitor=True)
    for _ in range(30):
        loss, grads = network.gradients(SEQUENCES[:50], LABELS[:50])
        monitor(opt.step(grads), loss)
        steps.append({name: norm(g) for name, g in grads.items()})
        network.params["wh"] *= np.float32(1.1)
    totals = np.linalg.norm([list(norms.values()) for norms in steps], axis=1)
    k, first = int(totals.argmax()), float(np.median(totals[: diagnosis.START]))
    (finding,) = [finding for finding in monitor.diagnose() if "of the beginning" in finding.text]
    assert finding.kind == "exploding"
    assert finding.tensors == tuple(name for name, length in steps[k].items() if length > 0.1 * totals[k])
    assert set(finding.tensors) <= {"wx", "wh", "bh"}
    figures = f"{totals[k]:.2g} in step {k + 1}, {totals[k] / first:.2g} times the {first:.2g} of the beginning"
    assert finding.text.startswith(f"the gradient norm reached {figures}")


def test_exploding_to_nan_in_a_deep_network_with_large_weights():
    network = relu(hidden=(30,) * 12, spread=4.0)
    (finding,) = train(network, "sgd", 60, lr=0.01)
    assert (finding.kind, set(finding.tensors)) == ("exploding", set(network.params))
    assert finding.text.startswith(
        "gradients were not finite in 50 of the last 50 records, first in step 11, there in w1"
    )


@pytest.mark.parametrize(("rule", "lr"), [("sgd", 10.0), ("adam", 1.0)])
def test_overshooting_with_a_large_learning_rate(rule, lr):
    findings = train(tanh(), rule, 10, batch=len(POINTS), x=4 * POINTS, lr=lr)
    (finding,) = [finding for finding in findings if finding.text.startswith("the loss rises")]
    assert finding.kind == "overshooting"
    assert {"w2", "b2"} <= set(finding.tensors)


@pytest.mark.parametrize("rule", ["sgd", "momentum"])
def test_overshooting_back_and_forth(rule):
    hypers = {"momentum": 0.5} if rule == "sgd" else {"beta": 0.5}
    (finding,) = train(tanh(), rule, 10, batch=len(POINTS), x=4 * POINTS, lr=0.75, **hypers)
    assert (finding.kind, finding.tensors) == ("overshooting", ("b1", "b2"))
    assert finding.text.startswith("steps go back and forth in b1 and b2: the gradient opposes the momentum")


LOSSES = {
    "flat": (np.ones(30), True),
    "falling": (np.linspace(3, 1, 30), False),
    "unknown": (repeat(None), True),
}


@pytest.mark.parametrize(("losses", "found"), LOSSES.values(), ids=LOSSES)
def test_turning_gradients_overshoot_unless_the_loss_falls(losses, found):
    findings = feed([layers((-1.0) ** k) for k in range(30)], losses, lr=0.05, momentum=0.1)
    assert [(finding.kind, finding.tensors) for finding in findings] == ([("overshooting", ("a",))] if found else [])
    assert all(("does not fall" in finding.text) == (losses is LOSSES["flat"][0]) for finding in findings)


RISES = {
    "above the first": (np.r_[1.0, np.linspace(9, 2, 99)], True),
    "above the half before": (np.r_[np.linspace(9, 1, 60), np.linspace(1, 3, 40)], True),
    "falls": (np.linspace(9, 1, 100), False),
    "below zero": (np.linspace(-9, -1, 100), True),
}


@pytest.mark.parametrize("lr", [0.05, 0.02], ids=["large steps", "moderate steps"])
@pytest.mark.parametrize(("losses", "rises"), RISES.values(), ids=RISES)
def test_large_steps_overshoot_if_the_loss_rises(losses, rises, lr):
    gradients = [layers((-1.0) ** (k // 2)) for k in range(100)]  # the weight stays near 1
    findings = feed(gradients, losses, lr=lr)
    assert [finding.kind for finding in findings] == (["overshooting"] if rises and lr == 0.05 else [])


def test_gradients_that_come_at_times_are_not_dead():
    assert feed([layers(float(k % 20 == 7)) for k in range(40)]) == []


def test_dead_relus():
    (finding,) = train(relu(bias=-40.0), "adam", 60)
    assert (finding.kind, finding.tensors) == ("dead", ("w1", "b1", "w2", "b2", "w3"))
    assert str(finding) == "dead: every gradient of w1, b1, w2, b2 and w3 was 0 in steps 11 to 60"


def test_stalled_weights_with_a_tiny_learning_rate():
    network = tanh()
    (finding,) = train(network, "sgd", 60, lr=1e-8)
    assert (finding.kind, finding.tensors) == ("stalled", ("w1", "w2"))
    assert f"of the {network.params['w2'].size} weights in w2" in finding.text


def test_fading_momentum_is_not_stalled_training():
    """Units that no example reaches any more keep a momentum that fades below an ulp: stalled, but nothing is lost."""
    monitor = fu.Monitor()
    opt = fu.SGD({"w": np.ones(100, np.float32)}, lr=1e-3, momentum=0.5, monitor=True)
    for step in range(60):
        g = np.ones(100, np.float32)
        g[10:] = step == 0
        monitor(opt.step({"w": g}))
    assert monitor.tensors["stalled"][-30] == 90
    assert monitor.diagnose() == []


HEALTHY = {"sgd": {"lr": 0.1}, "momentum": {"lr": 0.05}}  # a rule that is not here: its defaults


@pytest.mark.parametrize("batch", [8, len(POINTS)], ids=["small batches", "all data"])
@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_found_in_a_healthy_training(rule, batch):
    network = relu()
    opt = fu.rules.get(rule)(network.params, monitor=True, **HEALTHY.get(rule, {}))
    before, _ = network.gradients(POINTS, LABELS)
    found = follow(network, opt, steps=300, batch=batch)
    assert network.gradients(POINTS, LABELS)[0] < 0.7 * before
    assert [str(finding) for findings in found for finding in findings] == []


def test_a_diagnosis_needs_ten_records():
    network = relu(bias=-40.0)
    opt = fu.Adam(network.params, monitor=True)
    monitor = fu.Monitor()
    for step in range(1, diagnosis.ENOUGH + 1):
        monitor(opt.step(network.gradients(POINTS, LABELS)[1]))
        assert [finding.kind for finding in monitor.diagnose()] == (["dead"] if step == diagnosis.ENOUGH else [])


def test_only_tensors_that_move_are_diagnosed():
    network = relu(bias=-40.0)
    opt = fu.Adam(network.params, monitor=True)
    monitor = fu.Monitor()
    for step in range(30):
        if step == 15:
            opt.freeze("w*")
        monitor(opt.step(network.gradients(POINTS, LABELS)[1]))
    (finding,) = monitor.diagnose()
    assert (finding.kind, finding.tensors) == ("dead", ("b1", "b2"))
    assert finding.text.endswith("in steps 16 to 30")


# -- fastupdate train --monitor ---------------------------------------------------------------------------------------


def run_train(*arguments: object) -> int:
    """The command on the digits, one epoch."""
    for module in ("sklearn", "matplotlib", "rich", "threadpoolctl"):
        peer(module)
    return main(["train", "--epochs", "1", "--threads", "1", *map(str, arguments)])


def test_train_writes_a_folder_for_each_rule_and_a_diagnosis(tmp_path, capsys):
    assert run_train("--rule", "adamw", "sgd", "--out", tmp_path / "a.png") == 0
    plain = capsys.readouterr().out
    assert run_train("--rule", "adamw", "sgd", "--out", tmp_path / "b.png", "--monitor", tmp_path / "runs") == 0
    monitored = capsys.readouterr().out
    assert "adamw: nothing wrong is found\nsgd: nothing wrong is found\n" in monitored
    for rule in ("adamw", "sgd"):
        lines = (tmp_path / "runs" / rule / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, 91))
        assert len(list(events(tmp_path / "runs" / rule))) == 90
        digests = [line.split()[-1] for text in (plain, monitored) for line in text.splitlines() if f"{rule} " in line]
        assert digests[1] == digests[3]  # of the progress line and the table's in each text


def test_train_says_what_is_wrong(tmp_path, capsys):
    run_train("--rule", "sgd", "--lr", "20", "--out", tmp_path / "a.png", "--monitor", tmp_path / "runs")
    assert "\nsgd: dead: every gradient of w1, b1, w2, b2 and w3 was 0 in steps 41 to 90\n" in capsys.readouterr().out


def test_train_does_not_mix_two_runs(tmp_path, capsys):
    (tmp_path / "sgd").mkdir()
    with pytest.raises(SystemExit, match="2"):
        run_train("--rule", "sgd", "--out", tmp_path / "a.png", "--monitor", tmp_path)
    assert f"--monitor: {tmp_path / 'sgd'} exists: choose another folder" in capsys.readouterr().err
