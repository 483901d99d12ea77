"""Which engine runs the plan: chosen once per optimizer, by `backend=`, FASTUPDATE_BACKEND or what is there."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

from fastupdate import device
from fastupdate.plan import Array, Engine, Records
from fastupdate.rule import Rule


class Backend(Protocol):
    """What makes plans: fastupdate.native, fastupdate.numba_engine, fastupdate.cuda.Backend."""

    NAME: str

    def make_plan(
        self, rule: Rule, flags: Mapping[str, bool], tensors: Records, groups: Records, clock: Array, sums: Records
    ) -> Engine: ...


@cache
def native_problem() -> str | None:
    """Why the compiled module cannot be used; None if it can."""
    try:
        from fastupdate import native  # noqa: F401
    except ImportError as error:
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


PROBLEMS = {"native": native_problem, "numba": numba_problem}


def _load(name: str) -> Backend:
    module: Any = importlib.import_module(f"fastupdate.{'native' if name == 'native' else 'numba_engine'}")
    backend: Backend = module
    return backend


@cache
def _announce(reason: str) -> None:
    warnings.warn(f"fastupdate runs on Numba: {reason}", RuntimeWarning, stacklevel=2)


def default_name() -> str:
    """The backend that host arrays get unless an optimizer asks for another."""
    return os.environ.get("FASTUPDATE_BACKEND") or ("native" if native_problem() is None else "numba")


def choose(rule: Rule, requested: str | None, like: Array) -> Backend:
    """The backend for arrays in the memory of `like`. A missing one that was asked for by name raises."""
    if isinstance(like, device.DeviceArray):
        return _choose_cuda(rule, requested, like)
    if requested == "cuda":
        raise ValueError(f"[{rule.name}] backend: expected arrays on a CUDA device for 'cuda', received host memory")
    return _choose_host(rule, requested)


def _choose_cuda(rule: Rule, requested: str | None, like: device.DeviceArray) -> Backend:
    if requested not in (None, "cuda"):
        place = device.location(like.number)
        raise ValueError(f"[{rule.name}] backend: expected arrays in host memory for {requested!r}, received {place}")
    problem = cuda_problem() if rule.native else "rules of your own run on host arrays"
    if problem:
        raise RuntimeError(f"[{rule.name}] backend 'cuda' is not available: {problem}")
    from fastupdate import cuda

    return cuda.Backend(like.framework, like.number)


def _choose_host(rule: Rule, requested: str | None) -> Backend:
    """A missing backend that was asked for by name raises; a fallback is announced once."""
    name = requested or os.environ.get("FASTUPDATE_BACKEND") or None
    if name is not None:
        if name not in PROBLEMS:
            raise ValueError(f"[{rule.name}] backend: expected one of {', '.join(PROBLEMS)}, received {name!r}")
        problem = PROBLEMS[name]()
        if problem:
            raise RuntimeError(f"[{rule.name}] backend {name!r} is not available: {problem}")
        return _load(name)
    problem = native_problem()
    if problem is None and rule.native:
        return _load("native")
    missing = numba_problem()
    if missing:
        raise RuntimeError(f"[{rule.name}] no backend is available: native: {problem}; numba: {missing}")
    if problem is not None:
        _announce(problem)
    return _load("numba")
