"""How many threads a step may use."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from fastupdate.arrays.numbers import integer
from fastupdate.arrays.place import Place


def cgroup_quota() -> float:
    """The CPU quota of this process in CPUs; inf where there is none."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text())
        period_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text())
        return quota_us / period_us if quota_us > 0 else math.inf
    except (OSError, ValueError):
        return math.inf


def default_threads() -> int:
    """FASTUPDATE_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs of this process within its quota."""
    for variable in ("FASTUPDATE_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(variable, "").split(",")[0].strip()
        if text:
            if not text.isdigit() or int(text) < 1:
                raise ValueError(f"{variable}: expected a positive integer, received {text!r}")
            return int(text)
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), cgroup_quota())))


_threads = default_threads()
_fixed = bool(os.environ.get("FASTUPDATE_NUM_THREADS", "").strip())


def set_num_threads(n: int | None) -> None:
    """Makes every later step use n threads, if it has work for them; the results do not depend on it.

    None, as at the start: each step uses one thread or all that there are, whichever was measured to be faster.
    """
    global _threads, _fixed  # noqa: PLW0603
    _threads = default_threads() if n is None else integer(Place("fastupdate", "threads"), n)
    _fixed = n is not None
    native = sys.modules.get("fastupdate._core")
    if native is not None:
        native.set_threads(_threads, _fixed)


def get_num_threads() -> int:
    """How many threads a step may use."""
    return _threads


def is_fixed() -> bool:
    """Whether the user has chosen the number of threads, so that none is measured."""
    return _fixed
