"""The benchmarks that airspeed velocity keeps a history of: each of them runs. No figure is asserted here."""

from __future__ import annotations

import collections
import importlib
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peers import REQUIRED

from fastupdate.engines import choose

sys.path.append(str(Path(__file__).parents[1]))  # `bench` is no part of the package

LARGE = {4_194_304, "matrix", "powers", "wide", "images", "800x12500"}  # what takes seconds


EVERY = {
    "steps": ["OneTensor", "ManySmall", "OneCall", "Options", "Denormals"],
    "ways": ["Calls", "Layouts", "Loops", *(["FreshCalls"] if REQUIRED else [])],
}


def _benchmarks(module: Any) -> Iterator[tuple[type, tuple[Any, ...]]]:
    """The classes of an asv module, with each of their parameters that is small."""
    for cls in vars(module).values():
        if isinstance(cls, type) and cls.__module__ == module.__name__:
            axes = getattr(cls, "params", ())
            for values in itertools.product(*(axes if isinstance(axes, tuple) else (axes,))):
                if not LARGE & {word for value in values for word in (value, *re.split("[ :,]+", str(value)))}:
                    yield cls, values


@pytest.mark.peer
@pytest.mark.skipif(choose.native_problem() is not None, reason="no native module")
@pytest.mark.parametrize("name", ["steps", "ways"])
def test_each_benchmark_of_the_history_runs(name: str) -> None:
    """As asv runs it, once."""
    counts: collections.Counter[str] = collections.Counter()
    missing: set[str] = set()
    for cls, values in _benchmarks(importlib.import_module(f"bench.benchmarks.{name}")):
        benchmark = cls()
        try:
            benchmark.setup(*values)
        except NotImplementedError as skipped:
            missing.add(str(skipped))
            continue
        for method in dir(cls):
            if method.startswith("time_"):
                getattr(benchmark, method)(*values)
        getattr(benchmark, "teardown", lambda *_: None)(*values)
        counts[cls.__name__] += 1
    assert all(counts[cls] for cls in EVERY[name]), counts
    assert all("is not installed" in reason for reason in missing)
    assert not (REQUIRED and missing)


def test_the_benchmarks_of_importing_run() -> None:
    module = importlib.import_module("bench.benchmarks.imports")
    found = [value for name, value in vars(module).items() if name.startswith("timeraw_")]
    assert len(found) == 2
    for code in found:
        assert subprocess.run([sys.executable, "-c", code()], timeout=60, check=False).returncode == 0
