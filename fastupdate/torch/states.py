"""`optimizer.state`: dicts that notice what others do to them, so that a step need not look through all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

CHANGING = ("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update")
SHOWING = ("__getitem__", "__iter__", "__or__", "__ror__", "copy", "get", "items", "values")


class Revision:
    """What others have done to a state.

    number  grows with every change of a dict
    shown   whether others have been handed tensors, so that they may give them other memory at any time
    """

    __slots__ = ("number", "shown")

    def __init__(self, shown: bool) -> None:
        self.number, self.shown = 0, shown


def _noticing(method: Callable[..., Any], change: int) -> Callable[..., Any]:
    def noticed(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.revision.number += change
        self.revision.shown = True
        return method(self, *args, **kwargs)

    noticed.__name__ = method.__name__
    return noticed


class Entry(dict[str, Any]):
    """The states of one parameter, by torch's names. Pickled, it is a plain dict.

    `peek`, `keep` and `drop` are the optimizer's own ways to get, set and delete.
    """

    __slots__ = ("revision",)

    def __init__(self, revision: Revision, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.revision = revision

    def peek(self, key: str) -> Any:
        """The value, or None."""
        return dict.get(self, key)

    def keep(self, key: str, value: Any) -> None:
        """Sets a value that nobody else has."""
        self.revision.number += 1
        dict.__setitem__(self, key, value)

    def drop(self, key: str) -> None:
        """Deletes a value, if there is one."""
        self.revision.number += 1
        dict.pop(self, key, None)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (), None, None, iter(self.items())


class States(defaultdict[Any, Any]):
    """The states of all parameters. What is put in as a plain dict becomes an entry. Pickled, it is a defaultdict."""

    def __init__(self, values: Mapping[Any, Any], shown: bool = True) -> None:
        self.revision = Revision(shown)
        super().__init__(dict)
        for key, value in values.items():
            self[key] = value
        self.revision.shown = shown

    def __setitem__(self, key: Any, value: Any) -> None:
        self.revision.number += 1
        self.revision.shown |= isinstance(value, dict) and bool(value)
        super().__setitem__(key, Entry(self.revision, value) if isinstance(value, dict) else value)

    def __missing__(self, key: Any) -> Any:
        self[key] = {}
        return self[key]

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """As that of dict."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As that of dict."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(other)
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return defaultdict, (dict,), None, None, iter([(key, plain(value)) for key, value in self.items()])


def plain(value: Any) -> Any:
    """An entry as a dict of its own; anything else as it is."""
    return dict(value) if isinstance(value, Entry) else value


for _name in CHANGING:
    setattr(Entry, _name, _noticing(getattr(dict, _name), 1))
    if _name not in vars(States):
        setattr(States, _name, _noticing(getattr(defaultdict, _name), 1))
for _name in SHOWING:
    setattr(Entry, _name, _noticing(getattr(dict, _name), 0))
