"""What the monitor keeps and writes, what its page says, and `fastupdate train --monitor`."""

from __future__ import annotations

import json
import math
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from peers import peer

import fastupdate as fu
from fastupdate.cli import main
from fastupdate.monitoring.finding import Kind
from fastupdate.step.report import STATISTICS, Report

FIGURES = [name for name in STATISTICS.names if name not in ("name", "n")]


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
    (finding,) = monitor.diagnose()
    assert (finding.kind, finding.steps, finding.records) == ("nonfinite", (1, 1), 1)
    assert "1 of these steps were skipped" in finding.text


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
    general = {f"train/{name}" for name in ("loss", "lr", "grad_norm", "clip_factor")}
    general |= {f"train/{name}_{end}" for name in ("loss", "grad_norm") for end in ("min", "max")}
    for step, values in found.items():
        assert set(values) == general | {f"weights.{figure}/{name}" for figure in FIGURES for name in ("w", "b")}
        assert sorted(values)[: len(general)] == sorted(general)  # as TensorBoard does
        assert values["train/loss"] == 1 / step
        for row in reports[step - 1].tensors:
            for figure in FIGURES:
                assert values[f"weights.{figure}/{row['name']}"] == np.float32(row[figure])


def test_event_file_leaves_out_what_is_not_known(tmp_path):
    with fu.Monitor(tmp_path) as monitor:
        monitor(fu.SGD({"w": np.ones(3)}, monitor=True).step({"w": np.full(3, np.nan)}))
    ((step, values),) = events(tmp_path)
    assert step == 1
    assert not {"train/loss", "weights.momentum_cosine/w"} & set(values)
    assert math.isnan(values["weights.grad_norm/w"])  # known, and worth seeing


def test_files_are_added_to(tmp_path):
    for _ in range(2):
        with fu.Monitor(tmp_path) as monitor:
            record(monitor, 3)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6


def test_without_tensorboardx_json_is_written_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.warns(UserWarning, match=r"no event file .* \(pip install fastupdate\[tensorboard\]\)"):
        monitor = fu.Monitor(tmp_path / "run")
    with monitor:
        record(monitor, 2)
    with fu.Monitor(tmp_path / "run", tensorboard=False) as monitor:
        record(monitor, 1)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    with pytest.raises(ImportError, match=r"pip install fastupdate\[tensorboard\]"):
        fu.Monitor(tmp_path / "other", tensorboard=True)
    assert not (tmp_path / "other").exists()


def test_no_event_file_where_none_is_wanted(tmp_path):
    with fu.Monitor(tmp_path, tensorboard=False) as monitor:
        record(monitor, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


# -- between the records ----------------------------------------------------------------------------------------------


def test_the_spread_is_that_of_the_steps_since_the_record_before(tmp_path):
    all_steps, monitor = fu.Monitor(), fu.Monitor(tmp_path, every=5, tensorboard=False)
    rng, params = np.random.default_rng(0), {"w": np.ones((3, 4)), "b": np.ones(4)}
    opt = fu.Adam(params, monitor=True)
    for _ in range(12):
        report, loss = opt.step({name: rng.standard_normal(p.shape) for name, p in params.items()}), rng.random()
        all_steps(report, loss)
        monitor(report, loss)
    monitor.close()
    assert list(monitor.history["step"]) == [5, 10]
    assert list(monitor.history["steps"]) == [5, 5]
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[1])
    for name in ("loss", "grad_norm"):
        values = all_steps.history[name][5:10]
        expected = [values.min(), np.median(values), values.max()]
        assert monitor.history[f"{name}_spread"][1].tolist() == line["spread"][name] == expected
    for row in monitor.spread[2:]:
        assert row["step"] == 10
        seen = all_steps.tensors[all_steps.tensors["name"] == row["name"]][5:10]
        for figure in FIGURES:
            expected = [seen[figure].min(), np.median(seen[figure]), seen[figure].max()]
            assert row[figure].tolist() == line["spread"]["tensors"][row["name"]][figure] == expected
    assert len(all_steps.spread) == 0


def test_a_spread_goes_back_a_hundred_steps_at_most():
    monitor, opt, looked_at = fu.Monitor(every=1000), fu.SGD([np.ones(3)], lr=1e-3, monitor=True), 0
    for step in range(1, 1001):
        report = opt.step([np.ones(3)])
        monitor(report, loss=-step)
        looked_at += "_table" in vars(report._statistics)
    assert (monitor.history["steps"], looked_at) == ([100], 100)
    assert monitor.history["loss_spread"].tolist() == [[-1000, -950.5, -901]]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_what_is_not_finite_is_recorded_at_once(loss):
    monitor, opt = fu.Monitor(every=10), fu.SGD([np.ones(3)], monitor=True)
    for step in range(1, 8):
        monitor(opt.step([np.full(3, np.inf if step == 6 else 1.0)]), loss if step == 3 else 1.0)
    assert list(monitor.history["step"]) == [3, 6]


WRONG = {
    "every": (lambda: fu.Monitor(every=0), r"every: expected an integer ≥ 1, received 0"),
    "every True": (lambda: fu.Monitor(every=True), r"every: expected an integer ≥ 1, received True"),
    "every text": (lambda: fu.Monitor(every="5"), r"every: expected an integer ≥ 1, received '5'"),
    "keep": (lambda: fu.Monitor(keep=2.5), r"keep: expected an integer ≥ 1, received 2.5"),
    "no statistics": (lambda: fu.Monitor()(Report(1, 0.1)), r"report.tensors: expected .*monitor=True.* received None"),
}


@pytest.mark.parametrize("integer", [5, np.int64(5), np.uint8(5), np.array(5)])
def test_any_integer_will_do(integer):
    monitor = fu.Monitor(every=integer, keep=integer)
    record(monitor, 10)
    assert list(monitor.history["step"]) == [5, 10]


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said(call, message):
    with pytest.raises(ValueError, match=rf"\[monitor\] {message}"):
        call()


# -- the page ---------------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[1] / "docs" / "monitoring.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("code", "output"), BLOCKS, ids=range(len(BLOCKS)))
def test_code_of_the_page_prints_what_the_page_says(code, output, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "monitoring.md", "exec"), {})
    assert capsys.readouterr().out == output


def test_all_code_of_the_page_shows_its_output():
    assert len(BLOCKS) == PAGE.count("```python") == 3


def test_the_page_names_every_kind_and_statistic():
    assert all(f"### {kind}" in PAGE or f", {kind}\n" in PAGE for kind in get_args(Kind))
    assert all(f"| {kind} | " in PAGE for kind in get_args(Kind))
    assert all(f"`{name}`" in PAGE for name in STATISTICS.names)


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


def test_train_without_tensorboardx_names_no_event_files(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    run_train("--rule", "sgd", "--out", tmp_path / "a.png", "--monitor", tmp_path / "runs")
    out, err = capsys.readouterr()
    assert f"statistics: {tmp_path / 'runs'} (TensorBoard's need fastupdate[tensorboard])\n" in out
    assert err == ""
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "for TensorBoard too if tensorboardX is installed" in " ".join(capsys.readouterr().out.split())


def test_train_says_what_is_wrong(tmp_path, capsys):
    run_train("--rule", "sgd", "--lr", "20", "--out", tmp_path / "a.png", "--monitor", tmp_path / "runs")
    (said,) = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith(("sgd: ", "sgd  ")) and "Try" in line
    ]
    assert said.startswith("sgd: exploding: the gradient norm reached ")
    assert "; every gradient of w1, b1, w2, b2 and w3 was 0" in said  # of that they died


def test_train_does_not_mix_two_runs(tmp_path, capsys):
    (tmp_path / "sgd").mkdir()
    with pytest.raises(SystemExit, match="2"):
        run_train("--rule", "sgd", "--out", tmp_path / "a.png", "--monitor", tmp_path)
    assert f"--monitor: {tmp_path / 'sgd'} exists: choose another folder" in capsys.readouterr().err
