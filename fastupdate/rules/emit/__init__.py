"""Writes rules as C++: a class of `fastupdate/rules/x.py` becomes the struct that csrc/core/rule.h describes.

It reads the text of the files, runs none of it, and needs Python alone, so that a build can call it. What it does not
know has no place in a rule, for C++, CUDA, Numba and NumPy could not be held to the same bits.
"""

from __future__ import annotations

from pathlib import Path

from .source import RefusedError as RefusedError
from .source import Source
from .struct import Struct


def emit(path: Path, name: str | None = None, text: str | None = None) -> str:
    """The C++ of a file's rule, or of the one whose class has this name; RefusedError says what has no place in it."""
    return Struct(source := Source(path, text), name or source.rules[0]).text()
