"""The arrays that belong to each tensor beside its gradient: the rule's states, and what options keep."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from fastupdate.arrays import accept, device, memory, overlap, tree
from fastupdate.arrays.foreign import Foreign
from fastupdate.arrays.memory import Array, Assignment
from fastupdate.arrays.place import Place
from fastupdate.rules.extent import SIDES, Extent, Shape, Side, shape_of
from fastupdate.rules.rule import Rule
from fastupdate.stages import ARRAYS
from fastupdate.step.extents import check_matrices
from fastupdate.step.hypers import Group
from fastupdate.step.options import Settings
from fastupdate.step.tensors import ACCUMULATOR, Item, given_states, state_kind, written


class Slot(NamedTuple):
    """One array for each tensor: of its shape, lying in memory as it does; float64 numbers for ranges of elements; or
    a factor (see `fastupdate.rules.rule`).

    kind     "state.<name>", or one of `records.ROLES`; a checkpoint knows it by that
    start    what it starts from (see `fastupdate.rules.rule.State`)
    storage  the type it is stored in; None: that of the tensor
    extent   what there is one number for; an array of the whole list is there once
    lasts    whether anything of it is needed after a step
    axes     tensors of fewer axes have none
    at_most  of a factor: the hyperparameter that says how long it may be, or it is empty
    """

    kind: str
    start: float | str = 0.0
    storage: str | None = None
    extent: Extent | Side = "element"
    lasts: bool = True
    axes: int = 0
    at_most: str | None = None

    def of_weights(self, weights: Array) -> Array:
        """What it is when it follows these weights, of host memory."""
        return weights if self.storage is None else narrowed(weights, self.storage)


ACCUMULATORS = Slot(ACCUMULATOR)  # that micro-batches add up in; there are some once there was one


def states(rule: Rule, names: Iterable[str]) -> list[Slot]:
    """The slots of a rule's states, of these."""
    return [
        Slot(state_kind(name), rule.starts[name], None, rule.extents[name], name not in rule.passing)
        if name not in rule.factors
        else Slot(state_kind(name), extent=rule.extents[name], at_most=rule.factors[name].at_most)
        for name in names
    ]


def copies(settings: Settings) -> list[Slot]:
    """The slots that options ask for: the arrays of stages, and the low-precision copy of the weights."""
    found = [
        Slot(array, stage.state.start, None, stage.state.per, stage.state.lasts, stage.least_axes)
        for array, stage in ARRAYS.items()
        if settings.asks_for(stage)
    ]
    return found if settings.shadow is None else [*found, Slot("shadow", "p", settings.shadow)]


def followers(settings: Settings) -> list[Slot]:
    """Those of them that follow the weights."""
    return [slot for slot in copies(settings) if slot.start == "p"]


def provide(
    items: list[Item],
    rule: Rule,
    kept: tuple[str, ...],
    settings: Settings,
    hypers: Sequence[Group],
    walks_memory: bool,
) -> None:
    """Gives each tensor its states, fresh or the user's, and what follows its weights.

    hypers        what is set for each row of `Item.row`
    walks_memory  the engine walks parameters and states alike as they lie in memory
    """
    shared = tuple(name for name in kept if rule.extents[name] == "list")
    for item in items if shared else ():
        item.shared = shared
    lasting, state = tuple(name for name in kept if name not in rule.passing), settings.state
    given = None if state is None else given_states(settings.rule, lasting, state)
    check_matrices(rule, items)
    if given is not None:
        take_states(items, given, states(rule, lasting), hypers)
        lie_as_given(items, [name for name in lasting if rule.extents[name] == "element"], walks_memory)
    elif walks_memory:
        lie_down(items)
    allocate(items, states(rule, kept if given is None else rule.passing), hypers)
    allocate(items, copies(settings))
    if given is not None:
        owned = written(items)
        overlap.check_overlaps([array for array, _ in owned], lambda k: Place(settings.rule, owned[k][1]))


def zeros(item: Item) -> Array:
    """A new array like the parameter, that lies in memory as it does."""
    return device.zeros_like([item.array], [item.array.dtype.name], [item.order])[0]


def allocate(items: list[Item], slots: Iterable[Slot], hypers: Sequence[Group] = ()) -> None:
    """Makes these arrays of each tensor; hypers: what is set for each row of `Item.row`, where any starts from that."""
    for _, alike in groupby(slots, lambda slot: (slot.storage, slot.extent, slot.axes, slot.at_most)):
        first, *others = alike
        having = [item for item in items if item.array.ndim >= first.axes] if first.axes else items
        make = _making(having, first, hypers)
        for slot in (first, *others):
            made = make()
            _give(having, slot, made)
            for item, array in zip(having, made, strict=True) if slot.start else ():
                array[...] = start_of(slot, item, hypers)


def _making(items: list[Item], slot: Slot, hypers: Sequence[Group]) -> Callable[[], list[Array]]:
    """What makes an array for each of these, of zeros."""
    arrays, orders = [item.array for item in items], [item.order for item in items]
    if slot.extent == "list":
        return lambda: device.zeros_like(arrays[:1], ["float64"], [None], [()]) * len(items)
    if slot.extent == "element":
        kinds = [slot.storage or array.dtype for array in arrays]
        return partial(device.zeros, arrays, device.runs_of([array.shape for array in arrays], kinds, orders))
    shapes = [shape_in(slot, item, item.array.shape, hypers) for item in items]
    types = [type_in(slot, item) for item in items]
    return partial(device.zeros, arrays, device.runs_of(shapes, types, [None] * len(items)))


def _give(items: list[Item], slot: Slot, made: list[Array]) -> None:
    """Gives each of these its array."""
    kind = slot.kind
    if slot.lasts:
        for item, array in zip(items, made, strict=True):
            item.slots[kind] = array
    else:
        for item, array in zip(items, made, strict=True):
            item.passing = {**item.passing, kind: array}


def shape_in(slot: Slot, item: Item, whole: Shape, hypers: Sequence[Group]) -> Shape:
    """The shape of an array of a tensor, all of which has the shape `whole`."""
    shape = shape_of(slot.extent, whole)
    too_long = slot.at_most is not None and shape[-1] > _at_start(slot.at_most, item, hypers)
    return (*shape[:-2], 0, 0) if too_long else shape


def type_in(slot: Slot, item: Item) -> str:
    """The type of its numbers."""
    return memory.type_name(item.array.dtype) if slot.extent in SIDES else "float64"


def _at_start(hyper: str, item: Item, hypers: Sequence[Group]) -> float:
    group = hypers[item.row]
    value = group[hyper]
    return group.check(hyper, value(0)) if callable(value) else float(value)


def start_of(slot: Slot, item: Item, hypers: Sequence[Group]) -> Any:
    """What an array of a tensor starts from."""
    match slot.start:
        case "p":
            return slot.of_weights(device.on_host(item.array))
        case "ndim":
            return float(item.array.ndim)
        case str(name):
            return _at_start(name, item, hypers)
    return slot.start


def thawing(slots: Iterable[Slot], item: Item, factor: float, hypers: Sequence[Group]) -> list[tuple[Array, Any]]:
    """Arrays of a tensor, and what they become: what they started from or, by a factor, so near to it.

    What belongs to the whole list, and factors, stay as they are.
    """
    found = []
    for slot in slots:
        if slot.extent not in ("list", *SIDES) and slot.lasts:
            array, start = item.slots[slot.kind], start_of(slot, item, hypers)
            moved = start + (array - start) * factor if slot.start else array * factor
            found.append((array, moved if factor else start))
    return found


def following(weights: Array, settings: Settings) -> dict[str, Array]:
    """What the slots of a tensor that follow its weights are when these are its weights, by kind."""
    values = device.on_host(weights)
    return {slot.kind: slot.of_weights(values) for slot in followers(settings)}


def lie_down(items: list[Item]) -> list[Assignment]:
    """Lets what belongs to each tensor follow the memory order of its parameter, which may have become another one.

    States that the user brought stay as they lie: ValueError where the parameter no longer lies as they do. Nothing is
    left to be assigned.
    """
    direct = memory.headers([item.array for item in items])["direct"].tolist()
    for item, lies_in_order in zip(items, direct, strict=True):
        order = None if lies_in_order else memory.order_of(item.array)
        if item.given and item.order not in (None, order):
            item.place.fail(ValueError, "an array that lies in memory as its states, which were handed in", "another")
        if item.order == order or item.given:
            continue
        item.order = order
        arrays = list(item.slots.values())
        dtypes = [array.dtype.name for array in arrays]
        made = device.copies_like(arrays, arrays, dtypes, [item.order] * len(arrays))
        item.slots = dict(zip(item.slots, made, strict=True))
    return []


def take_states(items: list[Item], states: Mapping[str, Any], wanted: list[Slot], hypers: Sequence[Group]) -> None:
    """Takes the user's arrays for states, after every check on each of them but how they lie in memory."""
    for name, slot in zip(states, wanted, strict=True):
        for item in items:
            of_all = items[0].given.get(name) if slot.extent == "list" else None
            item.given = {**item.given, name: of_all or _given(item, name, states, slot, hypers)}
            item.slots[slot.kind] = item.given[name].array


def lie_as_given(items: list[Item], of_elements: Collection[str], walks_memory: bool) -> None:
    """Lets each tensor be walked as the states lie that the user brought: as its parameter does, or in C order.

    They are the states themselves, not copies of them: ValueError for one that lies otherwise.
    """
    for item in items:
        order = memory.order_of(item.array) if walks_memory else None
        elements = [item.given[name].array for name in of_elements]
        if order is not None and all(memory.is_direct(array.transpose(order)) for array in elements):
            item.order = order
        for name, state in item.given.items():
            array = item.in_memory(state.array) if name in of_elements else state.array
            if not memory.is_direct(array):
                alike = "" if order is None else ", or all states as the parameter lies"
                received = f"strides {state.array.strides} of shape {state.array.shape}"
                state.place.fail(ValueError, f"a contiguous, aligned array (x.copy() is one){alike}", received)


def _given(item: Item, name: str, states: Mapping[str, Any], slot: Slot, hypers: Sequence[Group]) -> Foreign:
    argument = Place(item.place.rule, f"state[{name!r}]")
    place = argument.of_leaf(item.path)
    try:
        given = tree.follow(states[name], item.path)
    except (KeyError, IndexError, TypeError):
        place.fail(ValueError, "an array for each parameter", "none")
    array = accept.parameter(given, place)
    if slot.extent == "element":
        array = accept.like(array, item.array, place)
    else:
        accept.check_shape(array, shape_in(slot, item, item.array.shape, hypers), np.dtype(type_in(slot, item)), place)
    return Foreign(given, array, argument, item.path)


def narrowed(array: Array, storage: str) -> Array:
    """A low-precision copy as a step makes it: to nearest, ties to even; bfloat16 as bits (uint16)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _ENCODERS[storage](np.array(array, np.float32, order="C"))


def _to_bfloat16(array: Array) -> Array:
    bits = array.view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))  # wraps around for NaN alone
    return np.where(np.isnan(array), bits >> 16 | 0x40, rounded >> 16).astype(np.uint16)


_ENCODERS: dict[str, Callable[[Array], Array]] = {
    "float16": lambda array: array.astype(np.float16),
    "bfloat16": _to_bfloat16,
}
