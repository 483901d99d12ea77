"""Which parameters are meant: by globs and regular expressions over dotted names, by masks, by the arrays."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fastupdate.arrays import tree
from fastupdate.arrays.place import Place

Pattern = str | re.Pattern[str] | bool | Mapping[Any, Any] | Iterable[Any]

EXPECTED = "a glob, a regular expression, a parameter, a mask of truth values or several of them"
SHOWN = 6  # names in a message


class Finder:
    """Finds parameters among all of an optimizer: made of their dotted names and the objects that the user handed in.

    A pattern is a glob, a compiled regular expression (which searches), one of the very objects, or any of several
    patterns; or a mask: truth values in a structure like that of the parameters, where one value may stand for a whole
    branch and what is absent is False. Names that are no globs, objects and masks are looked up, not searched for.
    """

    def __init__(self, sources: Mapping[str, Any]) -> None:
        self._names = dict.fromkeys(sources)
        self._by_id = {id(source): name for name, source in sources.items()}

    def __call__(self, place: Place, pattern: Pattern) -> set[str]:
        """The names that are meant. ValueError if nothing matches, unless a mask says so; TypeError: no pattern."""
        if isinstance(pattern, Iterator):
            pattern = list(pattern)
        if _is_mask(place, pattern):
            return self._masked(place, pattern)
        found = set(self._matches(place, pattern))
        if not found:
            place.fail(ValueError, f"a pattern that matches a parameter ({self._shown()})", repr(pattern))
        return found

    def _matches(self, place: Place, pattern: Any, depth: int = 0) -> Iterable[str]:
        if isinstance(pattern, str):
            return self._globbed(pattern)
        if isinstance(pattern, re.Pattern):
            return filter(pattern.search, self._names)
        if id(pattern) in self._by_id:
            return [self._by_id[id(pattern)]]
        if hasattr(pattern, "dtype"):
            place.fail(ValueError, f"one of the parameters themselves ({self._shown()})", "another array")
        if isinstance(pattern, (bytes, Mapping)) or not isinstance(pattern, Iterable):
            place.fail(TypeError, EXPECTED, repr(pattern))
        tree.check_depth(place, depth + 1)
        return [name for part in pattern for name in self._matches(place, part, depth + 1)]

    def _globbed(self, pattern: str) -> Iterable[str]:
        if not any(sign in pattern for sign in "*?["):
            return [pattern] if pattern in self._names else []
        return filter(re.compile(fnmatch.translate(pattern)).match, self._names)

    def _masked(self, place: Place, mask: Any) -> set[str]:
        entries = {tree.dotted(path): leaf for path, leaf in tree.leaves(mask, place)}
        for name, leaf in entries.items():
            if not _is_truth(leaf):
                place.fail(TypeError, "a mask of truth values", f"{leaf!r} at {name!r}")
        unused, found = set(entries), set()
        for name in self._names:
            above = [branch for branch in _branches(name) if branch in entries]
            unused.difference_update(above)
            if above and entries[above[-1]]:
                found.add(name)
        if unused:
            place.fail(ValueError, f"a mask of the parameters ({self._shown()})", f"an entry {min(unused)!r}")
        return found

    def _shown(self) -> str:
        names = list(self._names)
        return ", ".join(names[:SHOWN]) + (f", … {len(names)} in all" if len(names) > SHOWN else "")


def _is_truth(x: object) -> bool:
    return isinstance(x, (bool, np.bool_))


def _is_mask(place: Place, pattern: Any) -> bool:
    """Whether a pattern holds truth values, or names things as only a mask does."""
    parts = tree.leaves(pattern, place, is_leaf=lambda container, path: isinstance(container, Mapping))
    return any(isinstance(part, Mapping) or _is_truth(part) for _, part in parts)


def _branches(name: str) -> Iterator[str]:
    """The whole tree, then the ever smaller branches that hold a parameter, and the parameter: "", "a", "a.b"."""
    yield ""
    for k, letter in enumerate(name):
        if letter == ".":
            yield name[:k]
    yield name
