"""How functions become machine code, and when that of an earlier process is used again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import config, njit
from numba.core.caching import FunctionCache

from fastupdate import stages
from fastupdate.arrays import memory
from fastupdate.engines import records

exact = njit(nogil=True, error_model="numpy")
inlined = njit(nogil=True, error_model="numpy", inline="always")


def _sources() -> str:
    """Of everything that kernels are made of: this package, and the tables whose numbers they hold."""
    here = sorted(Path(__file__).parent.glob("*.py"))
    files = [*here, *(Path(module.__file__ or "") for module in (records, memory, stages, stages.table))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


SOURCES = _sources()


class Kept(FunctionCache):
    """Machine code on disk. Of what it depends on, Numba itself looks at the function's own file alone."""

    def _index_key(self, *arguments: Any) -> tuple[Any, ...]:
        optimised: int = config.OPT  # type: ignore[attr-defined]
        return (*super()._index_key(*arguments), SOURCES, optimised)  # type: ignore[no-untyped-call]


def compiled(function: Callable[..., Any]) -> Any:
    """A function that knows no rule and no stage, so that its machine code can be kept on disk between processes."""
    dispatcher: Any = exact(function)
    dispatcher._cache = Kept(function)  # type: ignore[no-untyped-call]
    return dispatcher
