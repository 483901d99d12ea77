"""The facts about a machine that belong beside its figures."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

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


def facts(threads: int) -> dict[str, str]:
    """Processor, caches, memory, versions, threads, and how busy the machine was at the start."""
    info = fu.info()
    load, free = os.getloadavg()[0], _from_lines("/proc/meminfo", "MemAvailable", "?")
    return {
        "processor": _from_lines("/proc/cpuinfo", "model name", platform.processor()),
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}",
        "threads": f"{threads} (NumPy and thinc: 1; XLA: as many as cores)",
        "last-level cache": _last_level_cache(),
        "memory available": free,
        "huge pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "torch huge pages": "on" if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1" else "off (THP_MEM_ALLOC_ENABLE)",
        "load average": f"{load:.2f}{' (the machine is busy: figures will be wrong)' if load > 0.3 else ''}",
        "system": f"{platform.platform()}, Python {platform.python_version()}",
        "fastupdate": f"{info['fastupdate']}, {info['backend chosen']}, {info.get('instruction set', 'not compiled')}",
        "OpenMP": str(info.get("openmp", "none")),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "unknown"


def _from_lines(path: str, key: str, otherwise: str) -> str:
    """The value in the first line `key: value`."""
    lines = (line.partition(":") for line in _read(path).splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), otherwise)


def _last_level_cache() -> str:
    caches = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    return f"L{_read(f'{caches[-1]}/level')}, {_read(f'{caches[-1]}/size')}" if caches else "unknown"
