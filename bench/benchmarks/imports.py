"""How long `import fastupdate` takes in a new interpreter."""

from __future__ import annotations


def timeraw_import() -> str:
    """NumPy is part of it."""
    return "import fastupdate"


def timeraw_import_numpy() -> str:
    """What to compare with."""
    return "import numpy"
