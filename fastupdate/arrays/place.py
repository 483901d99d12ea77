"""How messages name an argument."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn

from fastupdate.arrays.tree import Path, shown


class Place:
    """Names an argument in messages: `[adamw] grads['w']: expected …, received …`.

    path: of a leaf within the argument; the words are made when somebody reads them.
    """

    __slots__ = ("_path", "_role", "rule")

    def __init__(self, rule: str, argument: str, path: Path = ()) -> None:
        self.rule = rule
        self._role, self._path = argument, path

    def of_leaf(self, path: Path) -> Place:
        """Names a leaf of the argument."""
        return Place(self.rule, self._role, path)

    @property
    def argument(self) -> str:
        return shown(self._role, self._path)

    def fail(self, error: type[Exception], expected: str, received: str) -> NoReturn:
        raise error(f"{self}: expected {expected}, received {received}")

    def unknown(self, error: type[Exception], kind: str, known: Iterable[str]) -> NoReturn:
        """Raises for an argument of a name that there is not; says which names there are, and which is alike."""
        names = list(known)
        alike = get_close_matches(self.argument.lower(), names, 1)
        hint = f", did you mean {alike[0]}?" if alike else ";"
        raise error(f"{self}: no such {kind}{hint} there are {', '.join(names)}")

    def __str__(self) -> str:
        return f"[{self.rule}] {self.argument}"
