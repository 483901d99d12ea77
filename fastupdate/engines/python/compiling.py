"""How functions become machine code, and when that of an earlier process is used again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Any

from numba import config, njit
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc

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

    def save_overload(self, *arguments: Any) -> None:
        """Where there is no room for it, the next process compiles it again."""
        with suppress(OSError):
            super().save_overload(*arguments)  # type: ignore[no-untyped-call]


def compiled(function: Callable[..., Any]) -> Any:
    """A function that knows no rule and no stage, so that its machine code can be kept on disk between processes."""
    dispatcher: Any = exact(function)
    dispatcher._cache = Kept(function)  # type: ignore[no-untyped-call]
    return dispatcher


def defined(source: str, scope: dict[str, Any]) -> dict[str, Any]:
    """The scope, with the functions of a source in it, whose machine code is kept beside this file."""
    scope["__name__"] = __name__
    exec(compile(source, __file__, "exec"), scope)
    return scope


def c_function(signature: Any, function: Any) -> Any:
    """A function as a C function. Machine code that is made of the same, rules and numbers too, is used again."""
    digest = hashlib.sha256(described(function).encode()).hexdigest()[:32]
    function.__qualname__ = f"{function.__name__}_{digest}"  # names the file, and the function for the linker
    made: Any = CFunc(function, (signature.args, signature.return_type), {}, {"error_model": "numpy"})
    made._cache = Kept(function)  # type: ignore[no-untyped-call]
    made.compile()
    return made


def described(thing: Any) -> str:
    """What machine code that is made of it depends on, in words that are the same in every process."""
    function = getattr(thing, "py_func", thing)
    if not isinstance(function, FunctionType):
        return f"{thing!r} {getattr(thing, '_fields', '')}"  # a type of tuples does not name its parts
    if function.__module__.startswith("numba."):
        return function.__qualname__
    code = function.__code__
    called = [function.__globals__[name] for name in code.co_names if name in function.__globals__]
    called += [cell.cell_contents for cell in function.__closure__ or ()]
    return repr((code.co_code, code.co_consts, code.co_names, *map(described, called)))
