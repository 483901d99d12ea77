"""Containers of the user's, who may put other arrays into them between two calls."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from operator import is_
from typing import Any, NamedTuple

from fastupdate.arrays.tree import containers_among, is_container, rebuild

NONE = -1
STORING = (list, dict, OrderedDict, defaultdict)  # their items are where CPython keeps those of lists and dicts


class Contents(NamedTuple):
    """A container and what was in it, in its order."""

    container: Any
    keys: tuple[Any, ...] | None  # None: it is a sequence
    values: tuple[Any, ...]

    @property
    def stored(self) -> bool:
        """Whether engines can look into it; others make up their items in Python."""
        return type(self.container) in STORING

    def intact(self) -> bool:
        """Whether the very same objects are in it."""
        now = self.container
        if len(now) != len(self.values):
            return False
        if self.keys is None:
            return all(map(is_, now, self.values))
        return all(map(is_, now, self.keys)) and all(map(is_, now.values(), self.values))


class Containers:
    """A structure of arrays as it was: every container of it that can be given other items.

    Its leaves have been looked at before, so that it is no deeper than trees are (see `leaves`).
    """

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        self.contents = list(_contents(tree))
        self.flat = len(self.contents) == 1 and not containers_among(self.contents[0].values)
        self.listed = len(tree) if self.flat and type(tree) is list else NONE  # arrays, if it is a list of such
        self.skeleton = None if self.flat and self.contents[0].keys is None else _skeleton(tree, self.flat)

    def intact(self) -> bool:
        """Whether the very same objects are in them."""
        return all(each.intact() for each in self.contents)

    def leaves_of(self, tree: Any) -> list[Any] | None:
        """The leaves of a structure that has the form of this one as it was, in its order; None: look closer."""
        return None if self.skeleton is None else self.skeleton.leaves(tree)


def _skeleton(tree: Any, flat: bool) -> Any:
    """The form of a structure, for the native module to know others by; None where there is no such module."""
    try:
        from fastupdate import _core
    except ImportError:
        return None
    return _core.Skeleton(dict.fromkeys(tree) if flat else rebuild(tree, lambda path: None), is_container)


def _contents(tree: Any) -> Iterator[Contents]:
    if not is_container(tree):
        return
    mapping = isinstance(tree, Mapping)
    values = tuple(tree.values() if mapping else tree)
    if type(tree) is not tuple:
        yield Contents(tree, tuple(tree) if mapping else None, values)
    for value in containers_among(values):
        yield from _contents(value)
