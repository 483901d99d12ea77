"""The facts about a machine that belong beside its figures."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, Self

import fastupdate as fu

PACKAGES = ("numpy", "numba", "torch", "jax", "optax", "thinc", "deepspeed")


def require_compiled(problem: str | None) -> None:
    """Ends the program where fastupdate would run on Numba unasked, as from a folder in which nothing was compiled.

    problem: why the compiled backend is missing; None if it is there
    """
    if problem and not os.environ.get("FASTUPDATE_BACKEND"):
        raise SystemExit(
            f"nothing was measured: there is no compiled backend in {Path(fu.__file__).parent}: {problem}\n"
            "Install this checkout by pip install -e . or ask for Numba's figures by FASTUPDATE_BACKEND=numba"
        )


QUIET = 0.05  # of the cores


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "unknown"


class Clock(NamedTuple):
    """Seconds: of the day, and of all cores since the machine was started.

    own  of this process and of those that it has started and that have ended
    """

    now: float
    own: float
    all: float
    stolen: float

    @classmethod
    def read(cls) -> Self:
        """NaN where there is no /proc/stat."""
        user, system, children_user, children_system, now = os.times()
        fields = _read("/proc/stat").partition("\n")[0].split()[1:]  # user nice system idle iowait irq softirq steal …
        ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in fields[:8]] or [float("nan")] * 8
        own = user + system + children_user + children_system
        return cls(now, own, sum(ticks[:3]) + sum(ticks[5:7]), ticks[7])


BEGIN = Clock.read()


def others(begin: Clock, end: Clock, cores: int) -> str:
    """The share of the cores that other processes took, and that the host gave to other guests.

    It is measured, and no load average, which remembers what its own process did before.
    """
    whole = max(end.now - begin.now, 1e-9) * cores
    busy = max((end.all - begin.all) - (end.own - begin.own), 0.0) / whole
    stolen = (end.stolen - begin.stolen) / whole
    text = f"other processes took {busy:.1%} of the cores, other guests {stolen:.1%}, in {end.now - begin.now:.0f} s"
    return f"{text} (figures are wrong by as much or more)" if busy + stolen > QUIET else text


def facts(threads: int) -> dict[str, str]:
    """Processor, caches, memory, versions, threads, and how busy the machine was with other things up to now."""
    info, free = fu.info(), _from_lines("/proc/meminfo", "MemAvailable", "?")
    version = f"{info['fastupdate']}, commit {_commit()}"
    return {
        "processor": _from_lines("/proc/cpuinfo", "model name", platform.processor()),
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}",
        "threads": f"{threads} (NumPy and thinc: 1; XLA: as many as cores)",
        "last-level cache": _last_level_cache(),
        "memory available": free,
        "huge pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "torch huge pages": "on" if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1" else "off (THP_MEM_ALLOC_ENABLE)",
        "others": others(BEGIN, Clock.read(), os.cpu_count() or 1),
        "system": f"{platform.platform()}, Python {platform.python_version()}",
        "fastupdate": f"{version}, {info['backend chosen']}, {info.get('instruction set', 'not compiled')}",
        "OpenMP": str(info.get("openmp", "none")),
        **{name: _version(name) for name in PACKAGES},
    }


def _commit() -> str:
    """Of the checkout, which has a version only where it is installed."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _from_lines(path: str, key: str, otherwise: str) -> str:
    """The value in the first line `key: value`."""
    lines = (line.partition(":") for line in _read(path).splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), otherwise)


def _last_level_cache() -> str:
    caches = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    return f"L{_read(f'{caches[-1]}/level')}, {_read(f'{caches[-1]}/size')}" if caches else "unknown"
