"""Parameter tensors and everything that belongs to each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastupdate.arrays import accept, device, memory, overlap, tree
from fastupdate.arrays.foreign import Foreign, shown
from fastupdate.arrays.memory import Array
from fastupdate.arrays.place import Place
from fastupdate.arrays.tree import Path
from fastupdate.step.options import Settings, Shadow


@dataclass
class Item:
    """One parameter tensor."""

    path: Path
    param: Foreign
    row: int = 0  # of its group, in what the user set
    states: dict[str, Array] = field(default_factory=dict)
    given: dict[str, Foreign] = field(default_factory=dict)  # states that the user brought
    acc: Array | None = None  # accumulated micro-batches
    slow: Array | None = None  # lookahead's slow weights
    ema: Array | None = None
    shadow: Array | None = None
    order: tuple[int, ...] | None = (
        None  # its axes from the slowest in memory to the fastest; None: C order, or strided
    )
    frozen: bool = False  # left out of the plan
    frozen_until: float = 0.0  # the step count from which it moves; infinite: until `unfreeze`
    t: int = 0  # steps this tensor has taken, as of the last plan

    @property
    def array(self) -> Array:
        """The parameter as a NumPy array."""
        return self.param.array

    @property
    def place(self) -> Place:
        """Names the parameter in messages."""
        return self.param.place

    def in_memory(self, array: Array) -> Array:
        """An array of the parameter's shape, its axes as they follow upon each other in the parameter's memory."""
        return array if self.order is None else array.transpose(self.order)

    @property
    def name(self) -> str:
        """Dotted path: what patterns match."""
        return tree.dotted(self.path)

    @property
    def torch_tensors(self) -> list[Any]:
        """Those of torch's that a step writes."""
        return [array.source for array in (self.param, *self.given.values()) if array.is_torch]

    def shown_state(self, name: str) -> Any:
        """A state as the user is handed it: what they brought, if that is an array of NumPy's."""
        given = self.given.get(name)
        return shown(self.states[name]) if given is None or given.is_torch else given.header

    def check(self) -> None:
        """Raises if an array of the user's is not what it was; torch parameters may be rebound (see `rebound`)."""
        for array in (*self.given.values(), *([] if self.param.is_torch else [self.param])):
            array.check()

    def arrays(self) -> list[tuple[Array, str]]:
        """What a step writes of this tensor, each array with its name in messages."""
        named = [(self.array, self.place.argument)]
        named += [(array, tree.shown(f"state[{name!r}]", self.path)) for name, array in self.states.items()]
        kept = {"slow": self.slow, "ema": self.ema, "shadow": self.shadow}
        return named + [(array, tree.shown(name, self.path)) for name, array in kept.items() if array is not None]

    @property
    def units(self) -> int:
        """Slices along the first axis, which `clip_unit_norm` clips one by one; vectors and scalars are one unit."""
        return len(self.array) if self.array.ndim > 1 else 1


def make_items(rule: str, params: Any) -> list[Item]:
    """The tensors of a nesting of arrays, after every check on them."""
    items = []
    for path, leaf in tree.leaves(params):
        place = Place(rule, tree.shown("params", path))
        items.append(Item(path, Foreign(leaf, accept.parameter(leaf, place), place)))
        here, there = (device.device_of(item.array) for item in (items[0], items[-1]))
        if here != there:
            place.fail(ValueError, f"an array in {device.location(here)}, like the others", device.location(there))
    if not items:
        Place(rule, "params").fail(ValueError, "at least one array", "an empty container")
    overlap.check_overlaps([item.array for item in items], [item.place for item in items])
    seen: set[str] = set()
    for item in items:
        if item.name in seen:
            item.place.fail(ValueError, "a dotted name of its own", f"{item.name!r}, which another one has")
        seen.add(item.name)
    return items


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
        kept = [pair for item in items for pair in item.arrays()[1:]]
        places = [*(item.place for item in items), *(Place(moved[0].place.rule, name) for _, name in kept)]
        overlap.check_overlaps([*arrays, *(array for array, _ in kept)], places)
    return [(item, params[item.path]) for item in moved]


def sources(items: Iterable[Item]) -> dict[str, Any]:
    """The parameters by dotted name, as the user handed them in."""
    return {item.name: item.param.source for item in items}


def allocate(items: list[Item], kept: tuple[str, ...], given: Mapping[str, Any] | None, settings: Settings) -> None:
    """Makes the arrays that belong to each tensor: states (zero, or the ones given), averages and copies."""
    arrays, dtypes = [item.array for item in items], [item.array.dtype.name for item in items]
    orders = [item.order for item in items]
    for name in kept:
        if given is not None:
            for item in items:
                item.given[name] = _given(item, name, given)
        states = (
            device.zeros_like(arrays, dtypes, orders) if given is None else [item.given[name].array for item in items]
        )
        for item, state in zip(items, states, strict=True):
            item.states[name] = state
    wanted = {"ema": settings.ema_decay, "slow": settings.lookahead}
    for role in [role for role, option in wanted.items() if option is not None]:
        copies = device.copies_like(arrays, map(device.on_host, arrays), dtypes, orders)
        for item, copy in zip(items, copies, strict=True):
            setattr(item, role, copy)
    if settings.shadow is not None:
        kind = settings.shadow
        narrow = (narrowed(device.on_host(array), kind) for array in arrays)
        copies = device.copies_like(arrays, narrow, [kind] * len(items), orders)
        for item, copy in zip(items, copies, strict=True):
            item.shadow = copy


def zero_arrays(items: list[Item]) -> list[Array]:
    """New arrays like the parameters, that lie in memory as they do."""
    arrays = [item.array for item in items]
    return device.zeros_like(arrays, [array.dtype.name for array in arrays], [item.order for item in items])


def following(item: Item, weights: Array, settings: Settings) -> dict[str, Array]:
    """What slow weights, average and copy of a tensor are, those that it has, when they follow these weights."""
    values = device.on_host(weights)
    found = {role: values for role in ("slow", "ema") if getattr(item, role) is not None}
    if settings.shadow is not None:
        found["shadow"] = narrowed(values, settings.shadow)
    return found


def allocate_accumulators(items: list[Item]) -> None:
    """Makes the arrays that micro-batches add up in."""
    for item, acc in zip(items, zero_arrays(items), strict=True):
        item.acc = acc


def lie_down(items: list[Item]) -> None:
    """Lets what belongs to each tensor follow the memory order of its parameter, which may have become another one."""
    moved = [item for item in items if not item.given and item.order != memory.order_of(item.array)]
    for item in moved:
        item.order = memory.order_of(item.array)
        own = [(item.states, name) for name in item.states]
        kept = [role for role in ("acc", "slow", "ema", "shadow") if getattr(item, role) is not None]
        arrays = [*(states[name] for states, name in own), *(getattr(item, role) for role in kept)]
        dtypes = [array.dtype.name for array in arrays]
        copies = device.copies_like(arrays, arrays, dtypes, [item.order] * len(arrays))
        for (states, name), copy in zip(own, copies, strict=False):
            states[name] = copy
        for role, copy in zip(kept, copies[len(own) :], strict=True):
            setattr(item, role, copy)


def narrowed(array: Array, shadow: Shadow) -> Array:
    """A low-precision copy as a step makes it: to nearest, ties to even; bfloat16 as bits (uint16)."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = np.array(array, np.float32, order="C")
        if shadow == "float16":
            return narrow.astype(np.float16)
        bits = narrow.view(np.uint32)
        rounded = bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))  # wraps around for NaN alone
        return np.where(np.isnan(narrow), bits >> 16 | 0x40, rounded >> 16).astype(np.uint16)


def given_states(rule: str, kept: tuple[str, ...], states: Mapping[str, Any] | Sequence[Any]) -> Mapping[str, Any]:
    """The states that the user brings, by name; a sequence of them is in the rule's order."""
    named = states if isinstance(states, Mapping) else dict(zip(kept, states, strict=False))
    if len(states) != len(kept) or set(named) != set(kept):
        received = ", ".join(named) if isinstance(states, Mapping) else f"{len(states)} of them"
        Place(rule, "state").fail(ValueError, ", ".join(kept) or "no states", received or "none")
    return named


def _given(item: Item, name: str, states: Mapping[str, Any]) -> Foreign:
    place = Place(item.place.rule, tree.shown(f"state[{name!r}]", item.path))
    try:
        given = tree.follow(states[name], item.path)
    except (KeyError, IndexError, TypeError):
        place.fail(ValueError, "an array for each parameter", "none")
    array = accept.like(accept.parameter(given, place), item.array, place)
    if not memory.is_direct(array):
        place.fail(ValueError, "a contiguous, aligned array", f"strides {array.strides}")
    return Foreign(given, array, place)
