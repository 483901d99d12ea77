"""Two contestants in one process, taking turns, and what can be said about the ratio of their times."""

from __future__ import annotations

import gc
import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.contestants import Contestant
from bench.workloads import Array

Times = NDArray[np.float64]

SAMPLE = 2e-3  # seconds that a timed run should last
MOST_STEPS = 1000  # in one timed run
SMALL = 64 << 20  # bytes of a working set below which 30 rounds are taken
LONG = 0.2  # seconds of a round from which it is 15 anyway
ROUNDING = 2e-6  # a few units in the last place of the parameters, whose values reach 5


@dataclass(frozen=True)
class Protocol:
    """How to measure."""

    threads: int
    quick: bool = False
    matmul: bool = True  # torch multiplies two matrices, untimed, before each timed run
    steps: int | None = None  # in one timed run; None: as many as last 2 ms

    def rounds(self, working_set: int, seconds: float) -> int:
        """How many: fewer where memory is what counts, or a round takes long."""
        if self.quick:
            return 3
        return 30 if working_set < SMALL and seconds < LONG else 15

    def disturbance(self) -> Callable[[], object]:
        """What happens right before each timed run: as in training, another user of the threads has just finished."""
        if not self.matmul or importlib.util.find_spec("torch") is None:
            return lambda: None
        import torch

        torch.set_num_threads(self.threads)
        a, b, out = (torch.rand(512, 512) for _ in range(3))
        return lambda: torch.mm(a, b, out=out)


@dataclass(frozen=True)
class Ratio:
    """The peer's time over the reference's: ratio of medians, and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Pair:
    """Seconds per step of a reference and a peer that took turns."""

    reference: Times
    peer: Times
    steps: int  # in each timed run

    @property
    def ratio(self) -> Ratio:
        n = len(self.peer)
        rounds = np.random.default_rng(0).integers(0, n, (2000, n))
        ratios = np.median(self.peer[rounds], axis=1) / np.median(self.reference[rounds], axis=1)
        low, high = np.quantile(ratios, (0.025, 0.975))
        return Ratio(float(np.median(self.peer) / np.median(self.reference)), float(low), float(high))


def timed_run(contestant: Contestant, steps: int, disturb: Callable[[], object]) -> float:
    """Seconds per step."""
    contestant.before(steps)
    disturb()
    step, clock = contestant.step, time.perf_counter
    begin = clock()
    for _ in range(steps):
        step()
    return (clock() - begin) / steps


def take_turns(reference: Contestant, peer: Contestant, protocol: Protocol) -> Pair:
    """Warm-up, then reference and peer in turn; both take the same number of steps."""
    disturb = protocol.disturbance()
    gc.collect()
    gc.disable()
    try:
        steps = protocol.steps or _steps(reference, peer, disturb, protocol.quick)
        warm = timed_run(reference, steps, disturb) + timed_run(peer, steps, disturb)
        rounds = range(protocol.rounds(reference.workload.working_set, steps * warm))
        times = np.array([[timed_run(c, steps, disturb) for c in (reference, peer)] for _ in rounds])
    finally:
        gc.enable()
    return Pair(times[:, 0], times[:, 1], steps)


def _steps(reference: Contestant, peer: Contestant, disturb: Callable[[], object], quick: bool) -> int:
    """As many steps as the faster one takes in 2 ms; the first runs warm up.

    A few steps that follow a disturbance take longer than most of a long run, so that a longer run says how many.
    """
    most, steps = 10 if quick else MOST_STEPS, 2
    for _ in range(2):
        seconds = [min(timed_run(c, steps, disturb) for _ in range(2)) for c in (reference, peer)]
        steps = min(math.ceil(SAMPLE / min(seconds)), most)
    return steps


def difference(a: Contestant, b: Contestant) -> float:
    """The largest difference in what both tell of their steps, beyond rounding, relative to the largest value."""
    ours, theirs = a.outcome(), b.outcome()
    return max(_relative_difference(ours[name], theirs[name]) for name in ours.keys() & theirs.keys())


def _relative_difference(xs: list[Array], ys: list[Array]) -> float:
    largest = max(float(np.abs(x).max()) for x in xs)
    apart = max(float(np.abs(x - y).max()) for x, y in zip(xs, ys, strict=True))
    return max(apart - ROUNDING, 0.0) / (largest or 1.0)
