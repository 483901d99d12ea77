"""Follows a training: a ring in memory, JSON lines, event files for TensorBoard, and a diagnosis in words."""

from __future__ import annotations

import math
import operator
from collections import deque
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fastupdate.arrays.memory import Assignment
from fastupdate.arrays.numbers import figure, switch
from fastupdate.arrays.place import Closed, Place
from fastupdate.monitoring import diagnosis
from fastupdate.monitoring.evidence import WINDOW, Evidence, Memory
from fastupdate.monitoring.files import Files
from fastupdate.monitoring.layers import dead_units
from fastupdate.monitoring.record import HISTORY, NAMES, SPREAD, TENSORS, Look, Record, look_at, make_record
from fastupdate.step.report import Report
from fastupdate.step.transaction import in_turn

MOST = 100  # steps that a spread goes back at most, so that it costs neither memory nor time where `every` is large


class Monitor(Closed):
    """Records the reports of an optimizer that was made with `monitor=True`, and says what is wrong with a training.

        opt = fu.AdamW(params, monitor=True)
        with fu.Monitor("runs/first", every=10) as monitor:
            for x, y in batches:
                loss, grads = …
                monitor(opt.step(grads), loss)
        for finding in monitor.diagnose():
            print(finding)

    directory    where `metrics.jsonl` and TensorBoard's event file go; they are added to what is there; None: nowhere
    every        steps from one record to the next: the steps whose number it divides; a step that was skipped, or whose
                 loss or gradients are not finite, is always recorded
    keep         how many records stay in memory
    tensorboard  whether to write event files, which need `pip install fastupdate[tensorboard]`. None: if that is there;
                 where it is not, a UserWarning says so. True: ImportError where it is not
    """

    def __init__(
        self,
        directory: str | PathLike[str] | None = None,
        every: int = 1,
        keep: int = 1000,
        *,
        tensorboard: bool | None = None,
    ) -> None:
        self.every = every
        self._ring: deque[Record] = deque(maxlen=_at_least_one("keep", keep))
        self._last: deque[Record] = deque(maxlen=WINDOW)  # keep may be less
        self._usable: deque[Record] = deque(maxlen=2 * WINDOW)
        self._memory = Memory()
        self._since: deque[Look] = deque(maxlen=MOST)
        events = None if tensorboard is None else switch(self._place("tensorboard"), tensorboard)
        self._files = None if directory is None else Files(Path(directory), events)

    @property
    def every(self) -> int:
        """Steps from one record to the next."""
        return self._every

    @every.setter
    def every(self, every: int) -> None:
        self._every = _at_least_one("every", every)

    def __repr__(self) -> str:
        last = f", the last of step {self._ring[-1].step}" if self._ring else ""
        return f"Monitor(every={self.every}, keep={self._ring.maxlen}) with records: {len(self._ring)}{last}"

    def _place(self, argument: str) -> Place:
        return Place("monitor", argument)

    def __call__(self, report: Report, loss: float | None = None) -> None:
        """Records what `opt.step()` returned, and the loss if given. ValueError: the optimizer does not monitor."""
        loss = None if loss is None else figure(self._place("loss"), loss)
        due = report.step % self.every == 0 or report.skipped or (loss is not None and not math.isfinite(loss))
        if not due and self.every - report.step % self.every >= MOST:
            return
        look = look_at(report, loss)
        if due or not math.isfinite(look.grad_norm):
            self._record(make_record([*self._since, look]))
        else:
            self._since.append(look)

    def _record(self, record: Record) -> None:
        """Whole or not at all, files included, whatever a signal handler raises; TensorBoard may see an event twice."""
        new: list[Assignment] = [(self._ring.append, record), (self._last.append, record), (self._since.clear,)]
        if record.finite and not record.skipped:
            new += [(self._usable.append, record), (vars(self).__setitem__, "_memory", self._memory.after(record))]
        if self._files is not None:
            new.insert(0, self._files.writing(record))
        in_turn(new)

    @property
    def history(self) -> NDArray[np.void]:
        """The records, a row for each.

        step, loss (NaN: not given), lr, grad_norm, clip_factor, nonfinite, skipped; and of the `steps` since the record
        before (at most 100), minimum, median and maximum: loss_spread, grad_norm_spread.
        """
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

    @property
    def spread(self) -> NDArray[np.void]:
        """Minimum, median and maximum of each statistic over the steps since the record before (at most 100).

        A row for each record and tensor: step, name, and each figure of `report.tensors` as three numbers. No rows with
        `every=1`, where they would all be alike.
        """
        return np.concatenate([np.zeros(0, SPREAD), *(record.spread for record in self._ring)])

    @property
    def dead_units(self) -> dict[str, float]:
        """The share of units that never worked in the last 50 records, by the tensor that has a number for each unit.

        See docs/monitoring.md for which tensors these are, and for what is counted.
        """
        return dead_units(self._evidence())

    def diagnose(self) -> list[diagnosis.Finding]:
        """What is wrong, by the last 50 records (docs/monitoring.md has the formulas); an empty list if nothing is."""
        return diagnosis.diagnose(self._evidence())

    def _evidence(self) -> Evidence:
        now = self._usable[-1].names if self._usable else []
        usable = [record for record in self._usable if record.names == now]
        return Evidence(tuple(self._last), usable, self._memory)

    def close(self) -> None:
        """Closes the files; what is in memory stays."""
        if self._files is not None:
            self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _at_least_one(name: str, value: Any) -> int:
    try:
        number = 0 if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"[monitor] {name}: expected an integer ≥ 1, received {value!r}")
    return number
