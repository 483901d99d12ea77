"""One recorded step, and the tables that records make up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastupdate.step.report import STATISTICS, Report

NAMES: tuple[str, ...] = STATISTICS.names or ()
FIGURES = NAMES[2:]  # without name and n
HISTORY = np.dtype(
    [
        ("step", "i8"), ("loss", "f8"), ("lr", "f8"), ("grad_norm", "f8"), ("clip_factor", "f8"), ("nonfinite", "i8"),
        ("skipped", "?"), ("steps", "i8"), ("loss_spread", "f8", 3), ("grad_norm_spread", "f8", 3),
    ]
)  # fmt: skip
TENSORS = np.dtype([("step", "i8"), *((name, STATISTICS[name]) for name in NAMES)])
SPREAD = np.dtype([("step", "i8"), ("name", "O"), *((name, "f8", 3) for name in FIGURES)])

NOTHING = np.zeros(0, SPREAD)


class Look(NamedTuple):
    """What one step reported. loss None: not given."""

    step: int
    loss: float | None
    lr: float
    grad_norm: float
    clip_factor: float
    nonfinite: int
    skipped: bool
    tensors: NDArray[np.void]


class Record(NamedTuple):
    """One recorded step, and the spread since the record before.

    The fields of HISTORY, the statistics of the step's tensors (none if it was skipped), and SPREAD's rows for them.
    """

    step: int
    loss: float | None
    lr: float
    grad_norm: float
    clip_factor: float
    nonfinite: int
    skipped: bool
    steps: int
    loss_spread: tuple[float, ...]
    grad_norm_spread: tuple[float, ...]
    tensors: NDArray[np.void]
    spread: NDArray[np.void]

    @property
    def row(self) -> tuple[Any, ...]:
        """The fields of HISTORY."""
        return (self.step, math.nan if self.loss is None else self.loss, *self[2:-2])

    @property
    def names(self) -> list[str]:
        """Of the tensors."""
        return list(self.tensors["name"])

    @property
    def finite(self) -> bool:
        """Whether every gradient was finite."""
        return math.isfinite(self.grad_norm)

    @property
    def level(self) -> float:
        """The loss; infinite where it is NaN, NaN where it is not known."""
        if self.loss is None:
            return math.nan
        return math.inf if math.isnan(self.loss) else self.loss

    @property
    def lost_tensors(self) -> tuple[str, ...]:
        """The tensors that had gradients that were not finite."""
        return tuple(self.tensors["name"][self.tensors["nonfinite"] > 0])


def look_at(report: Report, loss: float | None) -> Look:
    """Works the figures out. ValueError: the optimizer does not monitor."""
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
    return Look(report.step, loss, report.lr, grad_norm, report.clip_factor, nonfinite, report.skipped, tensors)


def make_record(looks: Sequence[Look]) -> Record:
    """That of the last step looked at, with the spread over all of them."""
    last = looks[-1]
    losses = [look.loss for look in looks if look.loss is not None] or [math.nan]
    overall = _spread_of_numbers(losses), _spread_of_numbers([look.grad_norm for look in looks])
    return Record(*last[:-1], len(looks), *overall, last.tensors, _spread_of_tensors(looks))


def _spread_of_tensors(looks: Sequence[Look]) -> NDArray[np.void]:
    """Over the steps that moved the same tensors as the last one; no rows if that was the only one."""
    names = looks[-1].tensors["name"]
    if len(looks) == 1 or not len(names):
        return NOTHING
    alike = [look.tensors for look in looks if np.array_equal(look.tensors["name"], names)]
    spread, tables = np.zeros(len(names), SPREAD), np.stack(alike)
    spread["step"], spread["name"] = looks[-1].step, names
    for name in FIGURES:
        spread[name] = _spread(tables[name].astype(np.float64)).T
    return spread


def _spread_of_numbers(values: Sequence[float]) -> tuple[float, ...]:
    return (values[0],) * 3 if len(values) == 1 else tuple(_spread(np.array(values)).tolist())


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minimum, median and maximum along the first axis; NaN where one of them is NaN."""
    with np.errstate(invalid="ignore"):
        return np.array([values.min(axis=0), np.median(values, axis=0), values.max(axis=0)])
