"""Nested containers of arrays: mappings and sequences become a flat list of (path, array) and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastupdate.arrays.place import Place

Path = tuple[str | int, ...]
DEEPEST = 100  # containers within each other: one that holds itself, however indirectly, is deeper than any number


def is_container(x: object) -> bool:
    """Whether x holds arrays rather than being one."""
    if type(x) is np.ndarray:
        return False
    return isinstance(x, Mapping) or (
        isinstance(x, Sequence)
        and not isinstance(x, (str, bytes, bytearray, memoryview))
        and not hasattr(x, "dtype")
        and not hasattr(x, "typecode")
    )


def containers_among(values: Sequence[Any]) -> list[Any]:
    """Those of some values that are containers; where all are NumPy's arrays, none is looked at."""
    return [] if set(map(type, values)) == {np.ndarray} else list(filter(is_container, values))


def check_depth(place: Place, depth: int) -> None:
    """ValueError at more than so many containers within each other, which may be one that holds itself."""
    if depth > DEEPEST:
        expected = f"at most {DEEPEST} containers within each other, none of which holds itself"
        place.fail(ValueError, expected, "more, or one that does")


def leaves(
    tree: Any, place: Place, path: Path = (), is_leaf: Callable[[Any, Path], bool] = lambda container, path: False
) -> Iterator[tuple[Path, Any]]:
    """Yields (path, leaf) in the order of the containers; ValueError if they are too deep.

    place    names the tree in messages
    is_leaf  whether a container at a path is to be taken for a leaf
    """
    if is_container(tree) and not is_leaf(tree, path):
        check_depth(place, len(path) + 1)
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            if is_container(value):
                yield from leaves(value, place, (*path, key), is_leaf)
            else:
                yield (*path, key), value
    else:
        yield path, tree


def rebuild(tree: Any, make: Callable[[Path], Any], path: Path = ()) -> Any:
    """A structure like `tree` of plain dicts, lists and tuples whose leaves are make(path)."""
    if isinstance(tree, Mapping):
        return {key: rebuild(value, make, (*path, key)) for key, value in tree.items()}
    if is_container(tree):
        items = [rebuild(value, make, (*path, k)) for k, value in enumerate(tree)]
        return tuple(items) if isinstance(tree, tuple) else items
    return make(path)


def nested(leaves: Iterable[tuple[Path, Any]]) -> Any:
    """Some leaves at their paths, in mappings within mappings; a leaf at the empty path is all there is."""
    found: dict[str | int, Any] = {}
    for path, leaf in leaves:
        if not path:
            return leaf
        inner = found
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = leaf
    return found


def follow(tree: Any, path: Path) -> Any:
    """The leaf at `path`; KeyError or IndexError where the structure differs."""
    for key in path:
        tree = tree[key]
    return tree


def dotted(path: Path) -> str:
    """`layers.0.weight`: what patterns match against."""
    return str(path[0]) if len(path) == 1 else ".".join(map(str, path))


def shown(role: str, path: Path) -> str:
    """`grads['layers'][0]`: what messages say."""
    return role + "".join(f"[{key!r}]" for key in path)
