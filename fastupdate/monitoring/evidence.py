"""What a diagnosis looks at: the last records, and a few figures of the whole training."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastupdate.monitoring import chance
from fastupdate.monitoring.record import HISTORY, Record

Floats = NDArray[np.float64]

WINDOW = 50  # records that a diagnosis looks back on
ENOUGH = 10  # records of a block, whose median is a level; with fewer, only what is plain without statistics counts
GROWTH = 100.0  # of the gradient norm; Pascanu et al. (2013), section 3.2, clip it at 0.5 to 10 times its average
LOST_GAIN = 0.5  # share of what the loss had gained
THROWN = 0.5  # of the weights, in one step
VISIBLE = 0.1  # of a loss: what it rises by at least, before anybody is told
APART = 4.0  # standard deviations of a rank sum: one false word in 30,000 looks


def _norm(values: Floats) -> float:
    return math.sqrt(float(values @ values))


def largest_gradients(record: Record) -> tuple[str, ...]:
    """The tensors that have most of the gradient norm."""
    norms = record.tensors["grad_norm"]
    return tuple(map(str, record.tensors["name"][norms > 0.1 * norms.max()]))


def finite(values: Floats) -> Floats:
    """Without NaN and infinity."""
    return values[np.isfinite(values)]


def deviation(values: Floats) -> float:
    """Standard deviation by the quartiles, which outliers do not move: σ = IQR / 1.349."""
    low, high = np.quantile(values, (0.25, 0.75))
    return float(high - low) / 1.349


class Peak(NamedTuple):
    """The record at which the gradient norm was the largest multiple of the calmest block before.

    An explosion may take several records; `start`, `loss_before` and `sudden` are of the first of them.
    sudden: in one step the norm became more than GROWTH times the largest before.
    """

    step: int
    grad_norm: float
    calm: float
    loss_before: float
    tensors: tuple[str, ...]
    start: int
    sudden: bool
    record: int  # its number among those with finite gradients

    @property
    def growth(self) -> float:
        return self.grad_norm / self.calm


@dataclass
class Memory:
    """Of the whole training, from its first record on.

    first_loss          NaN: none was known yet
    best                the losses of the block of ENOUGH records with the lowest median, in order
    calm                the lowest median of the gradient norms of a block, before the first one that of one record
    peak                None: the norm never grew
    dead_at_first       the tensors that had no gradient in the first record
    longest             the largest ‖Δ‖ / ‖w‖, with the weights of the record before the step
    drive               the highest median of lr · ‖g‖ of a block, before the first one that of one record
    """

    first_loss: float = math.nan
    best: Floats = field(default_factory=lambda: np.zeros(0))
    calm: float = math.inf
    peak: Peak | None = None
    dead_at_first: frozenset[str] | None = None
    longest: float = 0.0
    drive: float = 0.0
    _weight_norm: float = 0.0
    _largest: float = 0.0
    _records: int = 0
    _losses: list[float] = field(default_factory=list)
    _norms: list[float] = field(default_factory=list)
    _drives: list[float] = field(default_factory=list)
    _recent_losses: deque[float] = field(default_factory=lambda: deque(maxlen=ENOUGH))

    def after(self, record: Record) -> Memory:
        """Another one, that has taken in a record with finite gradients too."""
        names = ("_losses", "_norms", "_drives", "_recent_losses")
        new = replace(self, **{name: copy.copy(getattr(self, name)) for name in names})
        new._take(record)
        return new

    def _take(self, record: Record) -> None:
        if self.dead_at_first is None:
            self.dead_at_first = frozenset(record.tensors["name"][record.tensors["zero_fraction"] == 1])
        self._records += 1
        weight, update = (_norm(record.tensors[f"{name}_norm"]) for name in ("weight", "update"))
        if self._weight_norm > 0:
            self.longest = max(self.longest, update / self._weight_norm)
        self._weight_norm = weight
        self._add_norm(record)
        loss = record.level
        if not math.isfinite(loss):
            return
        if math.isnan(self.first_loss):
            self.first_loss = loss
        self._recent_losses.append(loss)
        self._losses.append(loss)
        if len(self._losses) == ENOUGH:
            if not len(self.best) or np.median(self._losses) < np.median(self.best):
                self.best = np.array(self._losses)
            self._losses.clear()

    def _new_peak(self, record: Record) -> Peak:
        old, number = self.peak, self._records
        before = float(np.median(self._recent_losses)) if self._recent_losses else math.nan
        start, sudden = record.step, record.steps == 1 and record.grad_norm > GROWTH * self._largest
        if old is not None and old.growth > GROWTH and number - old.record <= ENOUGH:
            start, before, sudden = old.start, old.loss_before, old.sudden
        return Peak(record.step, record.grad_norm, self.calm, before, largest_gradients(record), start, sudden, number)

    def _add_norm(self, record: Record) -> None:
        norm = record.grad_norm
        if norm == 0:
            return
        growth = 1.0 if self.peak is None else self.peak.growth
        if norm > growth * self.calm:
            self.peak = self._new_peak(record)
        self._largest = max(self._largest, norm)
        if math.isinf(self.calm):
            self.calm, self.drive = norm, record.lr * norm
        self._norms.append(norm)
        self._drives.append(record.lr * norm)
        if len(self._norms) == ENOUGH:
            self.calm = min(self.calm, float(np.median(self._norms)))
            self.drive = max(self.drive, float(np.median(self._drives)))
            self._norms.clear()
            self._drives.clear()


class Rise(NamedTuple):
    """How the loss stands to what it has been: medians of the later half of the window, and of the best block.

    z     how many standard deviations the two are apart, by the rank sum
    log_z how many the first loss is below a whole window of losses, if it had their relative noise. One loss is one
          draw only, so it counts if all of them are above it and a step since was half as long as the weights; else 0
    """

    now: float
    best: float
    first: float
    z: float
    log_z: float

    @property
    def lost(self) -> bool:
        """Whether the loss has lost more than half of what it had gained, visibly and beyond chance."""
        gain, seen = max(self.first - self.best, 0.0), VISIBLE * abs(self.best)
        return self.now - self.best > max(LOST_GAIN * gain, seen) and (self.z > APART or self.above_first)

    @property
    def above_first(self) -> bool:
        """Whether the loss is above the first one, visibly and beyond chance."""
        return self.now > self.first + VISIBLE * abs(self.first) and self.log_z > APART


@dataclass(frozen=True)
class Evidence:
    """The last records, and the memory.

    records   the last WINDOW, whatever became of them
    usable    the last 2 · WINDOW of those with finite gradients and of the tensors that move now
    memory    of the whole training
    """

    records: Sequence[Record]
    usable: Sequence[Record]
    memory: Memory

    @cached_property
    def window(self) -> Sequence[Record]:
        """The last WINDOW usable records."""
        return self.usable[-WINDOW:]

    @cached_property
    def history(self) -> NDArray[np.void]:
        """The rows of the window."""
        return np.array([record.row for record in self.window], HISTORY)

    @cached_property
    def loss(self) -> Floats:
        """Of each record of the window. NaN: not given, or NaN itself."""
        return np.asarray(self.history["loss"])

    @cached_property
    def loss_given(self) -> bool:
        """Whether each record of the window has a loss, finite or not."""
        return all(record.loss is not None for record in self.window)

    @cached_property
    def tensors(self) -> NDArray[np.void]:
        """The statistics, (records, tensors)."""
        return np.stack([record.tensors for record in self.window])

    def overall(self, figure: str) -> Floats:
        """The norm over all tensors, of each record."""
        return np.asarray(np.linalg.norm(self.tensors[figure], axis=1))

    def names(self, chosen: NDArray[np.bool_]) -> tuple[str, ...]:
        """The names of the chosen tensors."""
        return tuple(map(str, self.tensors["name"][-1][chosen]))

    @cached_property
    def dead(self) -> NDArray[np.bool_]:
        """The tensors of which every gradient was exactly 0 in every record; none, if the records are too few."""
        return np.asarray((self.tensors["zero_fraction"] == 1).all(axis=0) & (len(self.window) >= ENOUGH))

    @cached_property
    def killed(self) -> bool:
        """Whether any of the dead had gradients at first."""
        return not (self.memory.dead_at_first or frozenset()).issuperset(self.names(self.dead))

    @cached_property
    def rise(self) -> Rise | None:
        """By the finite losses. None: most are not finite, some were not given, or there are too few records."""
        later = self.loss[len(self.loss) // 2 :]
        loss = finite(later)
        if len(self.loss) < ENOUGH or not self.loss_given or math.isnan(self.memory.first_loss):
            return None
        if 2 * len(loss) < len(later):
            return None
        first = self.memory.first_loss
        best = self.memory.best if len(self.memory.best) else np.array([first])
        log_z = 0.0
        thrown = self.memory.longest > THROWN and len(self.loss) == WINDOW
        if thrown and 0 < first < finite(self.loss).min():
            noise = max(deviation(np.log(loss)), 1e-6)
            log_z = float(np.median(np.log(loss)) - math.log(first)) / noise
        return Rise(
            float(np.median(loss)), min(float(np.median(best)), first), first, chance.rank_sum(loss, best), log_z
        )

    @cached_property
    def falling(self) -> bool:
        """Whether the loss of the window's later half is below that of its earlier half, beyond chance."""
        early, late = map(finite, np.array_split(self.loss, [len(self.loss) // 2]))
        return self.loss_given and len(early) > 0 and len(late) > 0 and chance.rank_sum(late, early) < -2

    @cached_property
    def loss_noise(self) -> float:
        """Standard deviation of the loss within the later half of the window; NaN: not known."""
        loss = finite(self.loss[len(self.loss) // 2 :])
        return deviation(loss) if len(loss) else math.nan

    def after(self, step: int, most: int = 5) -> Floats:
        """The losses of the window from a step on; infinite where they are NaN, NaN where they were not given."""
        return np.array([record.level for record in islice((r for r in self.window if r.step >= step), most)])
