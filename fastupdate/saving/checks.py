"""What is asked of the entries of a state, and of names for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import index
from typing import Any

from fastupdate.arrays.place import Place

PART = " (strict=False takes what both have)"

Rename = Mapping[str, str] | Callable[[str], str]


def at(place: Place, key: str | int) -> Place:
    """Names an entry."""
    return Place(place.rule, f"{place.argument}[{key!r}]")


def check_mapping(place: Place, received: Any) -> None:
    if not isinstance(received, Mapping):
        place.fail(TypeError, "a mapping", type(received).__name__)


def check_keys(place: Place, received: Any, expected: Iterable[str], remedy: str = "") -> None:
    check_mapping(place, received)
    expected = dict.fromkeys(expected)
    for key in expected:
        if key not in received:
            at(place, key).fail(ValueError, "an entry", f"none{remedy}")
    for key in received:
        if key not in expected:
            at(place, key).fail(ValueError, "no such entry", f"one{remedy}")


def check_default(place: Place, value: Any, default: float) -> None:
    """ValueError if what a state lacks is not what it is by default: so it was before there was such an entry."""
    if value != default:
        here = "a schedule" if callable(value) else repr(value)
        expected = f"an entry, or {default!r} in this optimizer"
        place.fail(ValueError, expected, f"none, and {here} (strict=False keeps it)")


def check_ours(place: Place, state: Any, name: str = "Partition") -> None:
    """ValueError for a state of an optimizer of torch's."""
    if isinstance(state, Mapping) and "param_groups" in state:
        place.fail(ValueError, f"a state of fu.{name}", f"one of torch's (which fu.torch.{name} loads)")


def count(place: Place, value: Any) -> int:
    """An entry that counts steps."""
    try:
        number = -1 if isinstance(value, bool) else index(value)
    except TypeError:
        number = -1
    if not 0 <= number < 2**63:
        place.fail(ValueError, "an integer in [0, 2⁶³)", repr(value))
    return number


def renamed(place: Place, names: list[str], rename: Rename | None) -> dict[str, str]:
    """New names by old ones."""
    if isinstance(rename, Mapping):
        unknown = next(iter(rename.keys() - set(names)), None)
        if unknown is not None:
            place.fail(ValueError, "names of tensors in the state", repr(unknown))
    given = rename if isinstance(rename, Mapping) else {}
    give: Callable[[str], Any] = rename if callable(rename) else lambda name: given.get(name, name)
    found = {name: give(name) for name in names}
    taken: dict[Any, str] = {}
    for old, new in found.items():
        if not isinstance(new, str):
            place.fail(TypeError, f"a name for {old!r}", repr(new))
        if taken.setdefault(new, old) != old:
            place.fail(ValueError, "a name of its own for each tensor", f"{new!r} for {taken[new]!r} and {old!r}")
    return found
