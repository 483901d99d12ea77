"""Parameter tensors and everything that belongs to each."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import wraps
from itertools import islice
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from fastupdate.arrays import accept, device, overlap, tree
from fastupdate.arrays.containers import Containers
from fastupdate.arrays.foreign import Foreign, shown
from fastupdate.arrays.memory import Array
from fastupdate.arrays.place import Place
from fastupdate.arrays.tree import Path

STATE, ACCUMULATOR = "state.", "accumulator"  # kinds of slots
TOGETHER = 512  # leaves that are looked at together; the garbage collector goes through all that is at hand
NOTHING: Mapping[str, Any] = MappingProxyType({})
Given = ParamSpec("Given")
Made = TypeVar("Made")


def uncollected(make: Callable[Given, Made]) -> Callable[Given, Made]:
    """A function that makes what stays, during which the garbage collector rests: it would go through all of it again
    and again, a million tensors in as long as they take to make."""

    @wraps(make)
    def made(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        was_enabled = gc.isenabled()
        try:  # an interrupt may come anywhere
            gc.disable()
            return make(*args, **kwargs)
        finally:
            if was_enabled:
                gc.enable()

    return made


def state_kind(name: str) -> str:
    """The kind of the slot of a state."""
    return STATE + name


class Item(Foreign):
    """One parameter tensor: the user's array, and everything that belongs to it.

    name          its dotted path: what patterns match
    row           of its group, in what the user set
    slots         what belongs to it (step/slots.py), by kind
    given         states that the user brought
    passing       states of which nothing is needed after a step, by kind
    shared        states that all tensors have in common
    order         its axes from the slowest in memory to the fastest; None: C order, or strided
    frozen        left out of the plan
    resting       left out of the plan too, for it has no gradient (`missing="skip"`)
    frozen_until  the step count from which it moves; infinite: until `unfreeze`
    t             steps this tensor has taken, as of the last plan
    """

    __slots__ = (
        "__weakref__", "frozen", "frozen_until", "given", "name", "order", "passing", "resting", "row", "shared",
        "slots", "t",
    )  # fmt: skip

    def __init__(self, source: Any, array: Array, argument: Place, path: Path, plain: bool) -> None:
        super().__init__(source, array, argument, path, plain)
        self.name = tree.dotted(path)
        self.row, self.t = 0, 0
        self.slots: dict[str, Array] = {}
        self.given: Mapping[str, Foreign] = NOTHING
        self.passing: Mapping[str, Array] = NOTHING
        self.shared: tuple[str, ...] = ()
        self.order: tuple[int, ...] | None = None
        self.frozen, self.resting, self.frozen_until = False, False, 0.0

    def but(self, **changes: Any) -> Item:
        """A copy of it, with some other attributes."""
        new = Item.__new__(Item)
        for name in (*Foreign.__slots__, *Item.__slots__[1:]):  # the first one cannot be set
            setattr(new, name, getattr(self, name))
        for name, value in changes.items():
            setattr(new, name, value)
        return new

    def rebound(self, array: Array) -> Item:
        """A copy of it, of the same tensor of torch's in other memory."""
        new = self.but()
        Foreign.__init__(new, self.source, array, self._argument, self.path)
        return new

    @property
    def states(self) -> Mapping[str, Array]:
        """The states of the rule, by name."""
        own = {kind.removeprefix(STATE): array for kind, array in self.slots.items() if kind.startswith(STATE)}
        return MappingProxyType(own)

    def in_memory(self, array: Array) -> Array:
        """An array of the parameter's shape, its axes as they follow upon each other in the parameter's memory."""
        return array if self.order is None else array.transpose(self.order)

    @property
    def torch_tensors(self) -> list[Any]:
        """Those of torch's that a step writes."""
        return [array.source for array in (self, *self.given.values()) if array.is_torch]

    def shown_state(self, name: str) -> Any:
        """A state as the user is handed it: what they brought, if that is an array of NumPy's."""
        given = self.given.get(name)
        return shown(self.slots[state_kind(name)]) if given is None or given.is_torch else given.header

    def check(self) -> None:
        """Raises if an array of the user's is not what it was; torch parameters may be rebound (see `rebound`)."""
        for array in self.given.values():
            array.check()
        if not self.is_torch:
            super().check()

    def arrays(self) -> list[tuple[Array, str]]:
        """What a step writes of this tensor, with its names in messages; accumulators are read, as gradients are."""
        named = [(self.array, self.place.argument)]
        for kind, array in self.slots.items():
            if kind != ACCUMULATOR:
                argument = f"state[{kind.removeprefix(STATE)!r}]" if kind.startswith(STATE) else kind
                named.append((array, tree.shown(argument, self.path)))
        return named


def make_items(rule: str, params: Any) -> list[Item]:
    """The tensors of a nesting of arrays, after every check on them."""
    argument = Place(rule, "params")
    items: list[Item] = []
    here: int | None = None
    found = tree.leaves(params, argument)
    while some := list(islice(found, TOGETHER)):
        for (path, leaf), plain in zip(some, accept.acceptable([leaf for _, leaf in some]), strict=True):
            array = leaf if plain else accept.parameter(leaf, argument.of_leaf(path))
            there = None if plain else device.device_of(array)
            if there != here and items:
                expected = f"an array in {device.location(here)}, like the others"
                argument.of_leaf(path).fail(ValueError, expected, device.location(there))
            here = there
            items.append(Item(leaf, array, argument, path, plain))
    if not items:
        argument.fail(ValueError, "at least one array", "an empty container")
    overlap.check_overlaps([item.array for item in items], lambda k: items[k].place)
    return items


def sort_into(items: list[Item], groups: Sequence[Mapping[str, Any]]) -> None:
    """Notes which group each tensor is in, and when it begins to move."""
    dates = [group["frozen_until"] for group in groups]
    if not any(dates) and len(dates) == 1:
        return
    by_name = {item.name: item for item in items}
    for row, (group, until) in enumerate(zip(groups, dates, strict=True)):
        for name in group["params"]:
            item = by_name[name]
            item.row, item.frozen_until, item.frozen = row, until, until > 0


def check_tree(containers: Containers, items: list[Item]) -> None:
    """Raises unless what the user handed in holds these parameters, each at its place, and no others."""
    if containers.intact():
        return
    rule = items[0].place.rule
    found = dict(tree.leaves(containers.tree, Place(rule, "params")))
    for item in items:
        if item.path not in found:
            item.place.fail(ValueError, "the array that the optimizer was made for", "none")
        if not item.is_still(found.pop(item.path)):
            write = f"{item.place.argument}{'.data' if item.is_torch else '[...]'} = x"
            item.place.fail(ValueError, f"the array that the optimizer was made for ({write} sets it)", "another one")
    for path in found:
        place = Place(rule, tree.shown("params", path))
        place.fail(ValueError, "nothing, as when the optimizer was made (others need a new one)", "an array")


def rebound(items: list[Item]) -> dict[Path, Item]:
    """The torch parameters that were given other memory (`p.data = …`), as they are now.

    Raises, and nothing has been followed, if one of them cannot be updated or shares memory with another array.
    """
    moved = [item for item in items if item.is_torch and item.moved()]
    found = {}
    for item in moved:
        array = accept.like(accept.parameter(item.source, item.place), item.array, item.place)
        found[item.path] = item.rebound(array)
    if moved:
        arrays = [found.get(item.path, item).array for item in items]
        owners = {id(item.array) for item in items}
        kept = [pair for pair in written(items) if id(pair[0]) not in owners]
        places = [*(item.place for item in items), *(Place(moved[0].place.rule, name) for _, name in kept)]
        overlap.check_overlaps([*arrays, *(array for array, _ in kept)], places.__getitem__)
    return found


def sources(items: Sequence[Item]) -> dict[str, Any]:
    """The parameters by dotted name, as the user handed them in; ValueError if two have the same."""
    found = {item.name: item.source for item in items}
    if len(found) < len(items):
        names: set[str] = set()
        for item in items:
            if item.name in names:
                item.place.fail(ValueError, "a dotted name of its own", f"{item.name!r}, which another one has")
            names.add(item.name)
    return found


def written(items: Iterable[Item]) -> list[tuple[Array, str]]:
    """What a step writes, each array with its name in messages; one that the list shares is there once."""
    found: list[tuple[Array, str]] = []
    shared: set[int] = set()
    for item in items:
        own = {id(item.slots[state_kind(name)]) for name in item.shared}
        found += [(array, name) for array, name in item.arrays() if id(array) not in shared & own]
        shared |= own
    return found


def given_states(rule: str, kept: tuple[str, ...], states: Mapping[str, Any] | Sequence[Any]) -> Mapping[str, Any]:
    """The states that the user brings, by name; a sequence of them is in the rule's order."""
    if not isinstance(states, Collection):
        Place(rule, "state").fail(TypeError, "arrays by name, or a sequence of them", type(states).__name__)
    named = states if isinstance(states, Mapping) else dict(zip(kept, states, strict=False))
    if len(states) != len(kept) or set(named) != set(kept):
        received = ", ".join(named) if isinstance(states, Mapping) else f"{len(states)} of them"
        Place(rule, "state").fail(ValueError, ", ".join(kept) or "no states", received or "none")
    return named
