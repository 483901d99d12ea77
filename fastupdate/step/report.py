"""What a step reports."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from threading import RLock
from typing import Any, Protocol
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from fastupdate.arrays.place import Place
from fastupdate.engines.protocol import Engine
from fastupdate.engines.records import SUMS, Records

# Of each tensor, in one step (g: gradient of the loss, before clipping; w: weights afterwards; Δ: their change):
#   grad_norm, weight_norm, update_norm   ‖g‖, ‖w‖, ‖Δ‖
#   update_ratio                          ‖Δ‖ / ‖w‖
#   largest_update                        max |Δᵢ|
#   nonfinite                             how many gᵢ are NaN or infinite
#   zero_fraction                         share of gᵢ that are 0
#   stalled                               how many wᵢ the rule's update uᵢ ≠ 0 is lost on: wᵢ + uᵢ rounds to wᵢ
#   momentum_cosine                       g·m / (‖g‖·‖m‖), m the momentum before the step (NaN: there is none, or zero)
#   update_cosine                         g·Δ / (‖g‖·‖Δ‖): −1 straight down the gradient (NaN: one of them is zero)
STATISTICS = np.dtype(
    [
        ("name", "O"), ("n", "i8"), ("grad_norm", "f8"), ("weight_norm", "f8"), ("update_norm", "f8"),
        ("update_ratio", "f8"), ("largest_update", "f8"), ("nonfinite", "i8"), ("zero_fraction", "f8"),
        ("stalled", "i8"), ("momentum_cosine", "f8"), ("update_cosine", "f8"),
    ]
)  # fmt: skip

keep = object.__setattr__
FIGURES = ("step", "lr", "grad_norm", "clip_factor", "nonfinite", "skipped", "reason")  # of a report, in reading order


class Tabular(Protocol):
    """Whatever has, or works out, the statistics of a step."""

    @property
    def table(self) -> NDArray[np.void] | None: ...


class Report:
    """One step's outcome.

    step         steps taken so far, this one included
    lr           learning rate of the first group in this step
    grad_norm    ‖s·g‖ over all tensors before clipping (s = 1 / (loss_scale · micro-batches)); None if not asked for
    clip_factor  what `clip_norm` multiplied the gradients by; 1.0 if it left them alone
    nonfinite    number of NaN and infinite gradients; None if not asked for
    skipped      True if the policy `nonfinite="skip"` or `outliers` left everything as it was
    reason       why it was skipped, in words; None if it was not
    tensors      with `monitor=True`, a structured array with a row per tensor (docs/monitoring.md), else None

    What a device knows is fetched when it is first looked at; that waits for the device.
    """

    # Those of a step on the CPU are made without running this code (csrc/python/reports.h).
    __slots__ = ("_statistics", "clip_factor", "grad_norm", "lr", "nonfinite", "reason", "skipped", "step")

    def __init__(
        self,
        step: int,
        lr: float,
        grad_norm: float | None = None,
        clip_factor: float = 1.0,
        nonfinite: int | None = None,
        reason: str | None = None,
        statistics: Tabular | None = None,
    ) -> None:
        keep(self, "step", step)
        keep(self, "lr", lr)
        keep(self, "grad_norm", grad_norm)
        keep(self, "clip_factor", clip_factor)
        keep(self, "nonfinite", nonfinite)
        keep(self, "skipped", reason is not None)
        keep(self, "reason", reason)
        keep(self, "_statistics", statistics)

    @classmethod
    def of(cls, step: Tabular) -> Report:
        """That of a step which has figures of these names: each is asked for when it is first looked at."""
        report = cls.__new__(cls)
        report._statistics = step
        return report

    def __getattr__(self, name: str) -> Any:
        """A figure that has not been looked at."""
        if name not in FIGURES:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        figure = getattr(self._statistics, name)
        keep(self, name, figure)
        return figure

    def __setattr__(self, name: str, value: Any) -> None:
        """A figure is set once: by a step, or by what makes a copy."""
        place, slots = Place("report", name), vars(Report)
        if name not in self.__slots__:
            place.unknown(AttributeError, "figure", FIGURES)
        try:
            slots[name].__get__(self)
        except AttributeError:
            keep(self, name, value)
        else:
            place.fail(AttributeError, "no assignment, for a report says what was (opt.lr = x)", repr(value))

    @property
    def tensors(self) -> NDArray[np.void] | None:
        """Worked out from the sums of the step when it is first looked at."""
        return None if self._statistics is None else self._statistics.table

    def as_dict(self) -> dict[str, Any]:
        """The step as plain Python numbers under the names above, for JSON or a log; `tensors` as a list of dicts.

        What was not asked for is None. NaN and infinities stay what they are: `json` writes NaN and Infinity.
        """
        found = {name: _plain(getattr(self, name)) for name in FIGURES}
        table = self.tensors
        rows = (
            None if table is None else [dict(zip(table.dtype.names or (), row, strict=True)) for row in table.tolist()]
        )
        return found | {"tensors": rows}

    def __repr__(self) -> str:
        """In reading order, to four digits, without what was not asked for."""
        shown = {name: _plain(getattr(self, name)) for name in FIGURES}
        if self.grad_norm is None and self.clip_factor == 1.0:
            del shown["clip_factor"]
        if not self.skipped:
            del shown["skipped"]
        if self.tensors is not None:
            shown["tensors"] = f"<{len(self.tensors)} rows>"
        figures = (f"{k}={f'{v:.4g}' if isinstance(v, float) else v}" for k, v in shown.items() if v is not None)
        return f"Report({', '.join(figures)})"


def _plain(value: Any) -> Any:
    """A number of NumPy's as one of Python's."""
    return value.item() if isinstance(value, np.generic) else value


class Statistics:
    """A table that is worked out from the sums of a step when it is first looked at. Arguments: tensor_statistics."""

    _working_out = RLock()

    os.register_at_fork(  # or a child's would stay locked if another thread works one out now
        before=_working_out.acquire, after_in_parent=_working_out.release, after_in_child=_working_out.release
    )

    def __init__(self, *sums: Any) -> None:
        self._sums = sums

    @cached_property
    def _table(self) -> NDArray[np.void]:
        return tensor_statistics(*self._sums)

    @property
    def table(self) -> NDArray[np.void]:
        """A row per tensor (see STATISTICS)."""
        with self._working_out:  # the next step but one waits here before it uses the sums again
            return self._table


class Joined(Statistics):
    """The statistics of several rules as one table."""

    @cached_property
    def _table(self) -> NDArray[np.void]:
        return np.concatenate([statistics.table for statistics in self._sums])


class RecentSums:
    """The sums of the last two monitored steps. New memory for each step would cost a long list more than summing."""

    def __init__(self, tensors: int) -> None:
        self._sums = [np.zeros(tensors, SUMS) for _ in range(2)]
        self._readers: list[Callable[[], Statistics | None]] = [lambda: None] * 2

    def statistics(
        self, engine: Engine, names: NDArray[np.object_], sizes: NDArray[np.int64], scales: Any, sign: float
    ) -> Statistics:
        """Those of the step just taken. Arguments: tensor_statistics.

        What was to be worked out from the sums of the step before the last, if anyone still has it, is worked out now.
        """
        self._sums.reverse()
        self._readers.reverse()
        if (earlier := self._readers[0]()) is not None:
            earlier.table  # noqa: B018
        engine.fold(self._sums[0])
        statistics = Statistics(names, sizes, self._sums[0], scales, sign)
        self._readers[0] = ref(statistics)
        return statistics


def tensor_statistics(
    names: NDArray[np.object_],
    sizes: NDArray[np.int64],
    totals: Records,
    scales: NDArray[np.float64] | float,
    sign: float,
) -> NDArray[np.void]:
    """The monitored figures of each tensor, from its sums.

    scales  what turns raw gradients into those of the loss, before any clipping: one number, or one per tensor
    sign    −1 where a momentum in favour of the gradient points against the raw one
    """
    table = np.zeros(len(names), STATISTICS)
    table["name"] = names
    table["n"] = sizes
    grad = np.sqrt(totals["gg"])
    table["grad_norm"] = grad * scales
    table["weight_norm"] = np.sqrt(totals["pp"])
    table["update_norm"] = np.sqrt(totals["uu"])
    table["largest_update"] = totals["largest"]
    table["nonfinite"] = totals["nonfinite"]
    table["stalled"] = totals["stalled"]
    with np.errstate(divide="ignore", invalid="ignore"):
        table["update_ratio"] = table["update_norm"] / table["weight_norm"]
        table["zero_fraction"] = totals["zeros"] / sizes
        table["momentum_cosine"] = sign * totals["gm"] / (grad * np.sqrt(totals["mm"]))
        table["update_cosine"] = totals["gu"] / (grad * table["update_norm"])
    return table
