"""Parameter tensors and everything that belongs to each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fastupdate.arrays import accept, device, overlap, tree
from fastupdate.arrays.containers import Containers
from fastupdate.arrays.foreign import Foreign, shown
from fastupdate.arrays.memory import Array
from fastupdate.arrays.place import Place
from fastupdate.arrays.tree import Path

STATE, ACCUMULATOR = "state.", "accumulator"  # kinds of slots


def state_kind(name: str) -> str:
    """The kind of the slot of a state."""
    return STATE + name


@dataclass(slots=True, weakref_slot=True)
class Item:
    """One parameter tensor."""

    path: Path
    name: str  # dotted path: what patterns match
    param: Foreign
    row: int = 0  # of its group, in what the user set
    slots: dict[str, Array] = field(default_factory=dict)  # what belongs to it (step/slots.py), by kind
    given: dict[str, Foreign] = field(default_factory=dict)  # states that the user brought
    passing: dict[str, Array] = field(default_factory=dict)  # states of which nothing is needed after a step, likewise
    shared: tuple[str, ...] = ()  # states that all tensors have in common
    order: tuple[int, ...] | None = (
        None  # its axes from the slowest in memory to the fastest; None: C order, or strided
    )
    frozen: bool = False  # left out of the plan
    resting: bool = False  # left out of the plan too, for it has no gradient (`missing="skip"`)
    frozen_until: float = 0.0  # the step count from which it moves; infinite: until `unfreeze`
    t: int = 0  # steps this tensor has taken, as of the last plan

    @property
    def array(self) -> Array:
        """The parameter as a NumPy array."""
        return self.param.array

    @property
    def states(self) -> Mapping[str, Array]:
        """The states of the rule, by name."""
        own = {kind.removeprefix(STATE): array for kind, array in self.slots.items() if kind.startswith(STATE)}
        return MappingProxyType(own)

    @property
    def place(self) -> Place:
        """Names the parameter in messages."""
        return self.param.place

    def in_memory(self, array: Array) -> Array:
        """An array of the parameter's shape, its axes as they follow upon each other in the parameter's memory."""
        return array if self.order is None else array.transpose(self.order)

    @property
    def torch_tensors(self) -> list[Any]:
        """Those of torch's that a step writes."""
        return [array.source for array in (self.param, *self.given.values()) if array.is_torch]

    def shown_state(self, name: str) -> Any:
        """A state as the user is handed it: what they brought, if that is an array of NumPy's."""
        given = self.given.get(name)
        return shown(self.slots[state_kind(name)]) if given is None or given.is_torch else given.header

    def check(self) -> None:
        """Raises if an array of the user's is not what it was; torch parameters may be rebound (see `rebound`)."""
        for array in (*self.given.values(), *([] if self.param.is_torch else [self.param])):
            array.check()

    def arrays(self) -> list[tuple[Array, str]]:
        """What a step writes of this tensor, with its names in messages; accumulators are read, as gradients are."""
        named = [(self.array, self.place.argument)]
        for kind, array in self.slots.items():
            if kind != ACCUMULATOR:
                argument = f"state[{kind.removeprefix(STATE)!r}]" if kind.startswith(STATE) else kind
                named.append((array, tree.shown(argument, self.path)))
        return named

    @property
    def units(self) -> int:
        """Slices along the first axis, which `clip_unit_norm` clips one by one; vectors and scalars are one unit."""
        return len(self.array) if self.array.ndim > 1 else 1


def make_items(rule: str, params: Any) -> list[Item]:
    """The tensors of a nesting of arrays, after every check on them."""
    items: list[Item] = []
    leaves = list(tree.leaves(params))
    seen = accept.acceptable([leaf for _, leaf in leaves])
    for k, ((path, leaf), address) in enumerate(zip(leaves, seen, strict=True)):
        place = Place(rule, "params", path)
        array = leaf if address is not None else accept.parameter(leaf, place)
        items.append(Item(path, tree.dotted(path), Foreign(leaf, array, place, address)))
        if k == 0:
            here = device.device_of(array)
        there = None if address is not None else device.device_of(array)
        if here != there:
            place.fail(ValueError, f"an array in {device.location(here)}, like the others", device.location(there))
    if not items:
        Place(rule, "params").fail(ValueError, "at least one array", "an empty container")
    overlap.check_overlaps([item.param.array for item in items], [item.param.place for item in items])
    _check_names(items)
    return items


def _check_names(items: list[Item]) -> None:
    names: set[str] = set()
    for item in items:
        if item.name in names:
            item.place.fail(ValueError, "a dotted name of its own", f"{item.name!r}, which another one has")
        names.add(item.name)


def sort_into(items: list[Item], groups: Sequence[Mapping[str, Any]]) -> None:
    """Notes which group each tensor is in, and when it begins to move."""
    by_name = {item.name: item for item in items}
    for row, group in enumerate(groups):
        until = group["frozen_until"]
        for name in group["params"]:
            item = by_name[name]
            item.row, item.frozen_until, item.frozen = row, until, until > 0


def check_tree(containers: Containers, items: list[Item]) -> None:
    """Raises unless what the user handed in holds these parameters, each at its place, and no others."""
    if containers.intact():
        return
    found = dict(tree.leaves(containers.tree))
    for item in items:
        if item.path not in found:
            item.place.fail(ValueError, "the array that the optimizer was made for", "none")
        if not item.param.is_still(found.pop(item.path)):
            write = f"{item.place.argument}{'.data' if item.param.is_torch else '[...]'} = x"
            item.place.fail(ValueError, f"the array that the optimizer was made for ({write} sets it)", "another one")
    for path in found:
        place = Place(items[0].place.rule, tree.shown("params", path))
        place.fail(ValueError, "nothing, as when the optimizer was made (others need a new one)", "an array")


def rebound(items: list[Item]) -> list[tuple[Item, Foreign]]:
    """The torch parameters that were given other memory (`p.data = …`), each with what it is now.

    Raises, and nothing has been followed, if one of them cannot be updated or shares memory with another array.
    """
    moved = [item for item in items if item.param.is_torch and item.param.moved()]
    params = {}
    for item in moved:
        array = accept.like(accept.parameter(item.param.source, item.place), item.array, item.place)
        params[item.path] = Foreign(item.param.source, array, item.place)
    if moved:
        arrays = [params.get(item.path, item.param).array for item in items]
        owners = {id(item.array) for item in items}
        kept = [pair for pair in written(items) if id(pair[0]) not in owners]
        places = [*(item.place for item in items), *(Place(moved[0].place.rule, name) for _, name in kept)]
        overlap.check_overlaps([*arrays, *(array for array, _ in kept)], places)
    return [(item, params[item.path]) for item in moved]


def sources(items: Iterable[Item]) -> dict[str, Any]:
    """The parameters by dotted name, as the user handed them in."""
    return {item.name: item.param.source for item in items}


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
    named = states if isinstance(states, Mapping) else dict(zip(kept, states, strict=False))
    if len(states) != len(kept) or set(named) != set(kept):
        received = ", ".join(named) if isinstance(states, Mapping) else f"{len(states)} of them"
        Place(rule, "state").fail(ValueError, ", ".join(kept) or "no states", received or "none")
    return named
