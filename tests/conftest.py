"""What all tests share: Hypothesis profiles, and process-wide settings put back after each test."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import environment  # noqa: F401 (before the others load what it sets)

# isort: split
import device_arrays
import peers
import pytest
from cases import isas
from hypothesis import HealthCheck, Phase, settings

from fastupdate.engines import threads

pytest.register_assert_rewrite(
    "cuda_pairs", "processes", "refusals", "scenarios", "torch_listed", "torch_pairs", "unchanged"
)

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
PHASES = [Phase.explicit, Phase.generate, Phase.shrink]  # explaining takes minutes and says little here
settings.register_profile("default", deadline=None, database=None, phases=PHASES, suppress_health_check=SLOW)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where a device takes the stand-in's place, its tests alone are of interest.

    Tests that Numba compiles for come first, so that one process gets them: two would both compile most loops.
    pytest-xdist deals out the tests in order, and takes from a process's last ones what another does in its place.
    """
    if device_arrays.ON_A_DEVICE:
        items[:] = [item for item in items if "stand_in" in getattr(item, "fixturenames", ())]
    items.sort(key=lambda item: not any(word in item.nodeid for word in ("numba", "own", "compil", "emit")))


def pytest_collection_finish() -> None:
    """What is there by now stays: no collection of garbage needs to look at it, and some tests collect often."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--histories", type=int, default=300, help="how many random histories (test_histories.py)")
    parser.addoption("--history", type=int, help="the seed of the only one")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture, some of which ask for peers."""
    peers.running[:] = [item]


@pytest.fixture(autouse=True)
def _settings_restored() -> Iterator[None]:
    """Thread count and instruction set are the process's: a test that changes them must not change the next one."""
    count, fixed = threads.get_num_threads(), threads.is_fixed()
    selected = _selected_isa()
    yield
    threads.set_num_threads(count if fixed else None)
    if selected is not None:
        from fastupdate import _core

        _core.select_isa(selected)


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command `fastupdate train` finds: a folder to write into, and one thread, as it has by default."""
    monkeypatch.chdir(tmp_path)
    threads.set_num_threads(1)


@pytest.fixture(scope="module")
def stand_in() -> Iterator[Any]:
    """A host's stand-in for the CUDA module (tests/cuda_shim), or the module; the controls of its device."""
    with device_arrays.installed() as controls:
        yield controls


@pytest.fixture
def shim(stand_in: Any) -> Iterator[Any]:
    """The stand-in's controls, set as after loading."""
    stand_in.set_schedule(0)
    stand_in.set_resident(3)
    threads.set_num_threads(1)
    yield stand_in
    if not device_arrays.ON_A_DEVICE:
        stand_in.set_forked(False)


def _selected_isa() -> str | None:
    if not isas():
        return None
    from fastupdate import _core

    return _core.selected_isa()
