"""Follows a training: a ring in memory, JSON lines, event files for TensorBoard, and a diagnosis in words."""

from __future__ import annotations

import json
import math
from collections import deque
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Self, TextIO

import numpy as np
from numpy.typing import NDArray

from fastupdate.monitoring import diagnosis
from fastupdate.step.report import STATISTICS, Report

HISTORY = np.dtype(
    [
        ("step", "i8"), ("loss", "f8"), ("lr", "f8"), ("grad_norm", "f8"), ("clip_factor", "f8"), ("nonfinite", "i8"),
        ("skipped", "?"),
    ]
)  # fmt: skip
NAMES: tuple[str, ...] = STATISTICS.names or ()
FIGURES = NAMES[2:]  # without name and n
TENSORS = np.dtype([("step", "i8"), *((name, STATISTICS[name]) for name in NAMES)])


class Record(NamedTuple):
    """One recorded step: the fields of HISTORY, and the statistics of its tensors (none if the step was skipped)."""

    step: int
    loss: float | None
    lr: float
    grad_norm: float
    clip_factor: float
    nonfinite: int
    skipped: bool
    tensors: NDArray[np.void]

    @property
    def row(self) -> tuple[Any, ...]:
        """The fields of HISTORY."""
        return (self.step, math.nan if self.loss is None else self.loss, *self[2:-1])

    @property
    def names(self) -> list[str]:
        """Of the tensors."""
        return list(self.tensors["name"])

    @property
    def finite(self) -> bool:
        """Whether every gradient was finite."""
        return math.isfinite(self.grad_norm)

    @property
    def lost_tensors(self) -> tuple[str, ...]:
        """The tensors that had gradients that were not finite."""
        return tuple(self.tensors["name"][self.tensors["nonfinite"] > 0])


class Monitor:
    """Records the reports of an optimizer that was made with `monitor=True`, and says what is wrong with a training.

        opt = fu.AdamW(params, monitor=True)
        with fu.Monitor("runs/first", every=10) as monitor:
            for x, y in batches:
                loss, grads = …
                monitor(opt.step(grads), loss)
        for finding in monitor.diagnose():
            print(finding)

    directory  where `metrics.jsonl` and TensorBoard's event file go; they are added to what is there. None: memory only
    every      steps from one record to the next: the steps whose number it divides; a skipped step is always recorded
    keep       how many records stay in memory

    Event files need `pip install fastupdate[tensorboard]`; without it a directory raises ImportError.
    """

    def __init__(self, directory: str | PathLike[str] | None = None, every: int = 1, keep: int = 1000) -> None:
        self.every = _at_least_one("every", every)
        self._ring: deque[Record] = deque(maxlen=_at_least_one("keep", keep))
        self._first: list[Record] = []
        self._files = None if directory is None else _Files(Path(directory))

    def __call__(self, report: Report, loss: float | None = None) -> None:
        """Records what `opt.step()` returned, and the loss if given. ValueError: the optimizer does not monitor."""
        if report.step % self.every and not report.skipped:
            return
        record = _record(report, None if loss is None else float(loss))
        self._ring.append(record)
        if len(self._first) < diagnosis.START and record.finite and not record.skipped:
            self._first.append(record)
        if self._files is not None:
            self._files.write(record)

    @property
    def history(self) -> NDArray[np.void]:
        """The records, a row for each: step, loss (NaN: not given), lr, grad_norm, clip_factor, nonfinite, skipped."""
        return np.array([record.row for record in self._ring], HISTORY)

    @property
    def tensors(self) -> NDArray[np.void]:
        """The statistics, a row for each record and tensor: `step`, then the fields of `report.tensors`."""
        table = np.zeros(sum(len(record.tensors) for record in self._ring), TENSORS)
        start = 0
        for record in self._ring:
            part = table[start : start + len(record.tensors)]
            part["step"] = record.step
            for name in NAMES:
                part[name] = record.tensors[name]
            start += len(part)
        return table

    def diagnose(self) -> list[diagnosis.Finding]:
        """What is wrong, by the last 50 records (docs/monitoring.md has the formulas); an empty list if nothing is."""
        return diagnosis.diagnose(self._evidence())

    def _evidence(self) -> diagnosis.Evidence:
        last = list(self._ring)[-diagnosis.WINDOW :]
        lost = [record for record in last if not record.finite]
        window = self._window()
        history = np.array([record.row for record in window], HISTORY)
        first = np.array([record.row for record in self._first], HISTORY)
        return diagnosis.Evidence(
            steps=history["step"],
            loss=history["loss"],
            grad_norm=history["grad_norm"],
            tensors=np.array([record.tensors for record in window]),
            first_loss=first["loss"][0] if len(first) else math.nan,
            first_grad_norm=first["grad_norm"],
            recorded=len(last),
            lost_steps=[record.step for record in lost],
            lost_tensors=lost[0].lost_tensors if lost else (),
        )

    def _window(self) -> list[Record]:
        """The last records with finite gradients, of the tensors that move now."""
        usable = [record for record in self._ring if record.finite and not record.skipped]
        now = usable[-1].names if usable else []
        return [record for record in usable if record.names == now][-diagnosis.WINDOW :]

    def close(self) -> None:
        """Closes the files; what is in memory stays."""
        if self._files is not None:
            self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _at_least_one(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"[monitor] {name}: expected an integer ≥ 1, received {value!r}")
    return value


def _record(report: Report, loss: float | None) -> Record:
    tensors = report.tensors
    if tensors is None:
        if not report.skipped:
            expected = "statistics (make the optimizer with monitor=True)"
            raise ValueError(f"[monitor] report.tensors: expected {expected}, received None")
        tensors = np.zeros(0, STATISTICS)
    grad_norm, nonfinite = report.grad_norm, report.nonfinite
    if grad_norm is None:
        grad_norm = float(np.sqrt(np.square(tensors["grad_norm"]).sum()))
    if nonfinite is None:
        nonfinite = int(tensors["nonfinite"].sum())
    return Record(report.step, loss, report.lr, grad_norm, report.clip_factor, nonfinite, report.skipped, tensors)


class _Files:
    """`metrics.jsonl` and an event file, both added to in every record."""

    def __init__(self, directory: Path) -> None:
        try:
            from tensorboardX import FileWriter
            from tensorboardX.proto.summary_pb2 import Summary
        except ImportError as error:
            needed = "pip install fastupdate[tensorboard]"
            raise ImportError(f"[monitor] directory: event files need tensorboardX; {needed}") from error
        directory.mkdir(parents=True, exist_ok=True)
        self._summary = Summary
        self._lines: TextIO = (directory / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self._events = FileWriter(str(directory), flush_secs=10)

    def write(self, record: Record) -> None:
        self._lines.write(json_line(record) + "\n")
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars(record).items()]
        self._events.add_summary(self._summary(value=values), record.step)

    def close(self) -> None:
        self._lines.close()
        self._events.close()


def scalars(record: Record) -> dict[str, float]:
    """The curves of TensorBoard, by tag: train/<figure>, then <figure>/<tensor>. Undefined cosines are left out."""
    tags: dict[str, float] = {f"train/{name}": getattr(record, name) for name in ("lr", "grad_norm", "clip_factor")}
    if record.loss is not None:
        tags["train/loss"] = record.loss
    for figure in FIGURES:
        for name, value in zip(record.tensors["name"], record.tensors[figure], strict=True):
            if figure != "momentum_cosine" or not math.isnan(value):
                tags[f"{figure}/{name}"] = value
    return tags


def json_line(record: Record) -> str:
    """The record as one line of JSON. JSON has no NaN and no infinity: they become "NaN", "Infinity", "-Infinity"."""
    tensors = {row[0]: _json_values(NAMES[1:], row[1:]) for row in record.tensors.tolist()}
    line = _json_values(Record._fields[:-1], record[:-1]) | {"tensors": tensors}
    return json.dumps(line, allow_nan=False, ensure_ascii=False)


def _json_values(names: tuple[str, ...], values: tuple[Any, ...]) -> dict[str, Any]:
    return {name: _json_value(value) for name, value in zip(names, values, strict=True)}


def _json_value(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
