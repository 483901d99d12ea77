"""The arrays that belong to each tensor beside its gradient: the rule's states, and what options keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastupdate.arrays import accept, device, memory, tree
from fastupdate.arrays.foreign import Foreign
from fastupdate.arrays.memory import Array
from fastupdate.arrays.place import Place
from fastupdate.step.options import Settings
from fastupdate.step.tensors import ACCUMULATOR, Item, state_kind


class Slot(NamedTuple):
    """One array for each tensor, of its shape, which lies in memory as it does.

    kind     "state.<name>", or one of `records.ROLES`; a checkpoint knows it by that
    copied   starts as the weights; else as zeros
    storage  the type it is stored in; None: that of the tensor
    """

    kind: str
    copied: bool = False
    storage: str | None = None

    def of_weights(self, weights: Array) -> Array:
        """What it is when it follows these weights, of host memory."""
        return weights if self.storage is None else narrowed(weights, self.storage)


ACCUMULATORS = Slot(ACCUMULATOR)  # that micro-batches add up in; there are some once there was one


def states(kept: Iterable[str]) -> list[Slot]:
    """The slots of a rule's states."""
    return [Slot(state_kind(name)) for name in kept]


def copies(settings: Settings) -> list[Slot]:
    """The slots that follow the weights: slow weights, average and low-precision copy, those that are asked for."""
    asked = {"slow": settings.lookahead, "ema": settings.ema_decay, "shadow": settings.shadow}
    storage = {"shadow": settings.shadow}
    return [Slot(kind, True, storage.get(kind)) for kind, option in asked.items() if option is not None]


def allocate(items: list[Item], slots: Iterable[Slot]) -> None:
    """Makes these arrays of each tensor."""
    arrays, orders = [item.array for item in items], [item.order for item in items]
    for slot in slots:
        dtypes = [slot.storage or array.dtype.name for array in arrays]
        if slot.copied:
            values = (slot.of_weights(device.on_host(array)) for array in arrays)
            made = device.copies_like(arrays, values, dtypes, orders)
        else:
            made = device.zeros_like(arrays, dtypes, orders)
        for item, array in zip(items, made, strict=True):
            item.slots[slot.kind] = array


def following(weights: Array, settings: Settings) -> dict[str, Array]:
    """What the slots of a tensor that follow its weights are when these are its weights, by kind."""
    values = device.on_host(weights)
    return {slot.kind: slot.of_weights(values) for slot in copies(settings)}


def lie_down(items: list[Item]) -> None:
    """Lets what belongs to each tensor follow the memory order of its parameter, which may have become another one."""
    moved = [item for item in items if not item.given and item.order != memory.order_of(item.array)]
    for item in moved:
        item.order = memory.order_of(item.array)
        arrays = list(item.slots.values())
        dtypes = [array.dtype.name for array in arrays]
        made = device.copies_like(arrays, arrays, dtypes, [item.order] * len(arrays))
        item.slots = dict(zip(item.slots, made, strict=True))


def take_states(items: list[Item], kept: tuple[str, ...], states: Mapping[str, Any]) -> None:
    """Takes the user's arrays for states, after every check on each of them."""
    for name in kept:
        for item in items:
            item.given[name] = _given(item, name, states)
            item.slots[state_kind(name)] = item.given[name].array


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
