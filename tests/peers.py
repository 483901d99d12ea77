"""Other libraries to compare with.

The README's `.[test]` installs some, so that in CI a missing one of these is a failure. The others are for those who
have them: a missing one skips its tests with the reason, unless FASTUPDATE_REQUIRE_PEERS is set; then it fails them.
Tests that use one of the others carry the mark `peer`, by which CI runs them in an environment that has them all.
"""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType
from typing import Any

import pytest

OTHERS = {
    "torch",
    "jax",
    "optax",
    "keras",
    "thinc",
    "prodigyopt",
    "dadaptation",
    "dog",
    "pytorch_optimizer",
    "lion_pytorch",
    "optimi",
    "schedulefree",
    "bitsandbytes",
    "timm",
    "torchrec",
    "fbgemm_gpu",
    "numba_cuda",
    "expecttest",
    "lightning",
    "transformers",
    "accelerate",
    "mpi4py",
    "mlx",
}
REQUIRED = bool(os.environ.get("FASTUPDATE_REQUIRE_PEERS"))

running: list[pytest.Item] = []  # the test that asks, if any: conftest.py sets it


def peer(name: str) -> ModuleType:
    """The module, or the reason why it is not compared with."""
    other = name.partition(".")[0] in OTHERS
    if other and not any(item.get_closest_marker("peer") for item in running):
        pytest.fail(f"a test that uses {name} needs @pytest.mark.peer, or CI would not run it beside its peers")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if REQUIRED or (os.environ.get("CI") and not other):
            pytest.fail(f"{name} is not installed, and here it must be: {error}")
        pytest.skip(f"{name} is not installed: {error}")


def file_needs(name: str) -> None:
    """For a file all of whose tests use it: one reason to skip the file, and not one for each of its thousand tests."""
    if not REQUIRED and importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)


class Module:
    """A module that is asked for (see `peer`) when a test uses something of it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # pytest looks at what it finds in a file
            raise AttributeError(attribute)
        return getattr(peer(self._name), attribute)
