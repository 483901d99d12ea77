"""How messages name an argument, and what they say of an attribute that there is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

from fastupdate.arrays.tree import Path, shown

_set = object.__setattr__
ELSEWHERE = {"learning_rate": "lr", "wd": "weight_decay", "epsilon": "eps"}  # what other libraries call it


def like(word: str, names: list[str]) -> str | None:
    """The name that is meant, or most like a word; None if none is like it."""
    meant = ELSEWHERE.get(word.lower())
    return meant if meant in names else next(iter(get_close_matches(word.lower(), names, 1)), None)


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
        alike = like(self.argument, names)
        hint = ";" if alike is None else f", did you mean {alike}?"
        raise error(f"{self}: no such {kind}{hint} there are {', '.join(names)}")

    def not_among(self, choices: Iterable[Any], value: Any, show: Callable[[Any], str] = repr) -> NoReturn:
        """ValueError for a value that is none of the choices; says which word is alike."""
        allowed = list(choices)
        alike = like(value, [word for word in allowed if isinstance(word, str)]) if isinstance(value, str) else None
        hint = "" if alike is None else f"; did you mean {alike!r}?"
        self.fail(ValueError, f"one of {', '.join(map(show, allowed))}", f"{value!r}{hint}")

    def __str__(self) -> str:
        return f"[{self.rule}] {self.argument}"


class Closed:
    """Base of what has the attributes that its class names: an assignment to another one is an AttributeError.

    A class that its user derives has whatever attributes the user gives it, as with NumPy's arrays.
    """

    _users = False  # whether it is one of those

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls._users = not cls.__module__.startswith("fastupdate.") and "rule" not in vars(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        if not (hasattr(type(self), name) or self._users or name.startswith("_") or name in vars(self)):
            self._check_new(name)
        _set(self, name, value)

    def _check_new(self, name: str) -> None:
        """Raises for an attribute that there is not."""
        public = {each: getattr(type(self), each, len) for each in dir(type(self)) if not each.startswith("_")}
        known = [each for each, value in public.items() if not callable(value)]
        self._place(name).unknown(AttributeError, "attribute", known)

    def _place(self, argument: str) -> Place:
        """Names an attribute or an argument in messages."""
        return Place(type(self).__name__, argument)
