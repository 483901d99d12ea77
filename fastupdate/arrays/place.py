"""How messages name an argument."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn


class Place:
    """Names an argument in messages: `[adamw] grads['w']: expected …, received …`."""

    def __init__(self, rule: str, argument: str) -> None:
        self.rule = rule
        self.argument = argument

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
