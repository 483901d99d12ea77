"""How many threads a step may use."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fastupdate.arrays.numbers import integer
from fastupdate.arrays.place import Place


def cgroup_quota() -> float:
    """This process's CPU quota in CPUs, the smallest from its own cgroup up to the root; inf where there is none."""
    return min(map(_quota, _cgroups()))


def _cgroups() -> Iterator[Path]:
    """The folders of the cgroups that share out CPUs to this process, of both versions, each one's root among them."""
    mounts = {"0": Path("/sys/fs/cgroup"), "cpu": Path("/sys/fs/cgroup/cpu")}
    yield from mounts.values()
    try:
        lines = Path("/proc/self/cgroup").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    for number, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1):
        mount = mounts.get("cpu" if "cpu" in controllers.split(",") else number)
        own = PurePosixPath("/", path)
        if mount is not None and ".." not in own.parts:  # not outside of what is mounted here
            yield from (mount / group.relative_to("/") for group in (own, *own.parents))


def _quota(folder: Path) -> float:
    """The CPUs that a cgroup may use; inf where it sets no limit."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            return math.inf if quota in ("max", "-1") else int(quota) / int(period)
        except (OSError, ValueError):
            pass
    return math.inf


OURS = "FASTUPDATE_NUM_THREADS"


def _given(variable: str) -> str:
    """The number that a variable of the environment names, which may be a list of them; "" if it is not set."""
    return os.environ.get(variable, "").split(",")[0].strip()


def default_threads() -> int:
    """FASTUPDATE_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs of this process within its quota."""
    for variable in (OURS, "OMP_NUM_THREADS"):
        text = _given(variable)
        if text:
            if not text.isdigit() or int(text) < 1:
                raise ValueError(f"{variable}: expected a positive integer, received {text!r}")
            return int(text)
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), cgroup_quota())))


def _at_start() -> tuple[int, bool]:
    """How many threads a step may use unless somebody says so here, and whether the environment fixes their number."""
    return default_threads(), bool(_given(OURS))


_threads, _fixed = _at_start()


def set_num_threads(n: int | None) -> None:
    """Makes every later step use n threads, if it has work for them; the results do not depend on it.

    None, as at the start: each step uses one thread or all that there are, whichever was measured to be faster, unless
    FASTUPDATE_NUM_THREADS fixes their number.
    """
    global _threads, _fixed
    _threads, _fixed = _at_start() if n is None else (integer(Place("fastupdate", "threads"), n), True)
    native = sys.modules.get("fastupdate._core")
    if native is not None:
        native.set_threads(_threads, _fixed)


def get_num_threads() -> int:
    """How many threads a step may use."""
    return _threads


def is_fixed() -> bool:
    """Whether the user has chosen the number of threads, so that none is measured."""
    return _fixed
