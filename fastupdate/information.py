"""What this installation can run, and why not the rest."""

from __future__ import annotations

import platform
from typing import Any

from fastupdate import rules
from fastupdate.engines import choose, threads


class Info(dict[str, Any]):
    """A dict of facts that prints as lines."""

    def __repr__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{key:<{width}}  {_shown(value)}" for key, value in self.items())


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _version(package: str) -> str:
    from importlib import metadata  # as slow to import as all the rest of fastupdate

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def version() -> str:
    """Which fastupdate this is; 0+unknown in a folder that was not installed."""
    found = _version("fastupdate")
    return "0+unknown" if found == "not installed" else found


def info() -> Info:
    """Versions, backends and why not the others, instruction set, threads, OpenMP, CUDA devices."""
    facts = Info(
        fastupdate=version(),
        python=platform.python_version(),
        numpy=_version("numpy"),
        numba=_version("numba"),
        machine=platform.machine(),
        rules=rules.names(),
        threads=threads.get_num_threads(),
    )
    for name, problem in (choose.PROBLEMS | choose.DEVICE_PROBLEMS).items():
        facts[f"backend {name}"] = problem() or "available"
    facts["backend chosen"] = choose.default_name()
    if choose.native_problem() is None:
        from fastupdate import _core

        facts["instruction set"] = f"{_core.selected_isa()} (of {', '.join(_core.available_isas())})"
        facts["compiler"] = _core.compiler
        facts["openmp"] = f"{_core.openmp} ({_openmp_library()})"
    return Info(facts | _cuda_facts())


def _cuda_facts() -> dict[str, Any]:
    """What the CUDA module was built by and what it finds; empty in a build without it."""
    try:
        from fastupdate import _cuda
    except ImportError:
        return {}
    return {
        "cuda toolkit": _cuda.toolkit,
        "cuda architectures": _cuda.architectures,
        "cuda driver": _cuda.driver(),
        "cuda devices": _cuda.devices() or f"none: {_cuda.problem()}",
    }


def _openmp_library() -> str:
    """The OpenMP runtime that this process has loaded."""
    with open("/proc/self/maps") as maps:
        found = sorted({line.split()[-1] for line in maps if "gomp" in line or "libomp" in line or "iomp" in line})
    return ", ".join(found) or "none loaded"
