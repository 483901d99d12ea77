"""`fastupdate train`: a small network, real images, any rule. Needs `pip install fastupdate[demo]`."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class DemoError(Exception):
    """Something that the caller can put right; the message is one line and says what."""


def require(module: str, purpose: str, extra: str = "demo") -> ModuleType:
    """Import an optional dependency when it is needed; if it is missing, say what for and how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        package = {"sklearn": "scikit-learn"}.get(module.partition(".")[0], module.partition(".")[0])
        raise DemoError(f"{purpose} needs {package}: pip install 'fastupdate[{extra}]'") from error
