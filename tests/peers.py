"""Other libraries to compare with: a missing one skips with its reason; where CI is set it fails."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest


def peer(name: str) -> ModuleType:
    """The module, or the reason why it is not compared with."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed, and in CI every peer must be: {error}")
        pytest.skip(f"{name} is not installed: {error}")
