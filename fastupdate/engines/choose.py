"""Which engine runs the plan: chosen once per optimizer, by `backend=`, FASTUPDATE_BACKEND or what is there."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from fastupdate.arrays import device
from fastupdate.arrays.memory import Array
from fastupdate.arrays.place import Place
from fastupdate.engines.protocol import Engine
from fastupdate.engines.records import Tables
from fastupdate.rules.rule import Rule


def _check_interpreter() -> None:
    """ImportError in a sub-interpreter, where loading what is compiled would wait for a lock that is never free."""
    here, main = ctypes.pythonapi.PyInterpreterState_Get, ctypes.pythonapi.PyInterpreterState_Main
    here.restype = main.restype = ctypes.c_void_p
    if here() != main():
        raise ImportError(
            "[fastupdate] interpreter: expected the main one of a process, received a sub-interpreter, which NumPy and"
            " compiled modules do not support; use processes (mod_wsgi: WSGIApplicationGroup %{GLOBAL})"
        )


_check_interpreter()  # before the first of them is loaded


class Backend(Protocol):
    """What makes plans: engines.native, engines.python.engine, engines.cuda.Backend, python.cuda_engine.Backend."""

    NAME: str
    WALKS_MEMORY: bool  # dense arrays in any order of their axes, in the order of memory

    def reads(self, tensor: Any) -> bool:
        """Whether its engines look at this torch tensor themselves, and tell autograd when a `step` writes it."""

    def make_plan(self, rule: Rule, flags: Mapping[str, bool], tables: Tables) -> Engine: ...


@cache
def native_problem() -> str | None:
    """Why the compiled module cannot be used; None if it can."""
    try:
        importlib.import_module("fastupdate._core")  # whose error names the module
        from fastupdate.engines import native  # noqa: F401
    except ImportError as error:
        source = Path(__file__).parents[2]
        if isinstance(error, ModuleNotFoundError) and (source / "pyproject.toml").exists():
            return f"{error}; {source} is the source: start Python elsewhere, or install it by `pip install -e .`"
        return f"{error}; install a wheel for this platform, or a compiler to build it with"
    return None


@cache
def numba_problem() -> str | None:
    """Why Numba cannot be used; None if it can. Does not import it: that takes a fifth of a second."""
    if importlib.util.find_spec("numba") is None:
        return "Numba is not installed; `pip install fastupdate[numba]`"
    return None


@cache
def cuda_problem() -> str | None:
    """Why device arrays cannot be updated; None if they can."""
    try:
        from fastupdate import _cuda
    except ImportError as error:
        return f"{error}; this build has no CUDA engine (FASTUPDATE_CUDA=ON says why it cannot be built)"
    return _cuda.problem() or None


@cache
def numba_cuda_problem() -> str | None:
    """Why device arrays cannot be updated through numba-cuda; None if they can. Does not import it."""
    if importlib.util.find_spec("numba_cuda") is None or numba_problem():
        return 'numba-cuda is not installed; `pip install "numba-cuda[cu13]"` (or [cu12])'
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1)"
    return None


PROBLEMS = {"native": native_problem, "numba": numba_problem}
DEVICE_PROBLEMS = {"cuda": cuda_problem, "numba-cuda": numba_cuda_problem}


def _load(name: str) -> Backend:
    module: Any = importlib.import_module(f"fastupdate.engines.{'native' if name == 'native' else 'python.engine'}")
    backend: Backend = module
    return backend


@cache
def _announce(fallback: str, reason: str) -> None:
    warnings.warn(f"fastupdate runs on {fallback}: {reason}", RuntimeWarning, stacklevel=2)


def default_name() -> str:
    """The backend that host arrays get unless an optimizer asks for another."""
    return os.environ.get("FASTUPDATE_BACKEND") or ("native" if native_problem() is None else "numba")


def choose(rule: Rule, requested: str | None, like: Array) -> Backend:
    """The backend for arrays in the memory of `like`. A missing one that was asked for by name raises."""
    if isinstance(like, device.DeviceArray):
        return _choose_device(rule, requested, like)
    if requested in DEVICE_PROBLEMS:
        raise ValueError(
            f"[{rule.name}] backend: expected arrays on a CUDA device for {requested!r}, received host memory"
        )
    return _choose_host(rule, requested)


def _choose_device(rule: Rule, requested: str | None, like: device.DeviceArray) -> Backend:
    """The native module if it is there, else numba-cuda, which is announced once."""
    if requested not in (None, *DEVICE_PROBLEMS):
        place = device.location(like.number)
        raise ValueError(f"[{rule.name}] backend: expected arrays in host memory for {requested!r}, received {place}")
    problems = {name: find() for name, find in DEVICE_PROBLEMS.items() if requested in (None, name)}
    if "cuda" in problems and not rule.native:
        problems["cuda"] = "rules of your own run through numba-cuda"
    name = next((name for name, problem in problems.items() if problem is None), None)
    if name is None:
        reasons = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        raise RuntimeError(f"[{rule.name}] no backend for CUDA devices is available: {reasons}")
    if name == "cuda":
        from fastupdate.engines import cuda

        return cuda.Backend(like.framework, like.number)
    if requested is None and rule.native:
        _announce("numba-cuda", str(problems["cuda"]))
    from fastupdate.engines.python import cuda_engine

    return cuda_engine.Backend(like.framework, like.number)


def _choose_host(rule: Rule, requested: str | None) -> Backend:
    """A missing backend that was asked for by name raises; a fallback is announced once."""
    by, name = "backend", requested
    if name is None:
        by, name = "FASTUPDATE_BACKEND", os.environ.get("FASTUPDATE_BACKEND") or None
    if name is not None:
        if name not in PROBLEMS:
            Place(rule.name, by).not_among(PROBLEMS, name, str)
        problem = PROBLEMS[name]() or (None if rule.native else numba_problem())
        if problem:
            raise RuntimeError(f"[{rule.name}] {by} {name!r} is not available: {problem}")
        return _load(name)
    problem = native_problem()
    if problem is None and (rule.native or not numba_problem()):  # a rule of one's own: Numba's code in our engine
        return _load("native")
    missing = numba_problem()
    if missing:
        raise RuntimeError(f"[{rule.name}] no backend is available: native: {problem}; numba: {missing}")
    if problem is not None:
        _announce("Numba", problem)
    return _load("numba")
