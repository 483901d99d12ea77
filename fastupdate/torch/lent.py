"""The arrays of a step in torch's hands: state tensors, made or taken over, and NumPy's views of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fastupdate.arrays import memory, tree
from fastupdate.arrays.memory import Array, Assignment
from fastupdate.arrays.place import Place
from fastupdate.rules.extent import SIDES, Shape
from fastupdate.step import extents, slots
from fastupdate.step.hypers import Group
from fastupdate.step.slots import Slot
from fastupdate.step.stepper import Stepper
from fastupdate.step.tensors import Item, state_kind
from fastupdate.torch.factors import Cuts, Owners, shape_here
from fastupdate.torch.names import STEP, counts_by_flag, is_counted, state_names
from fastupdate.torch.shards import Shards, is_dtensor, is_shared_as, like, part_of
from fastupdate.torch.states import Entry, States

Groups = Sequence[Group]


class Lent:
    """The states of the tensors that move together.

    kept      of each: the entry that has it, its name there, and the tensor
    made      the entries and names that were made for this list, to be withdrawn if its first step fails
    counted   whether there are step counts
    elements  the names of states of an array like the parameter, by kind
    """

    def __init__(self, states: States, shards: Shards, owners: Owners) -> None:
        """owners: of matrices that ranks share"""
        self._states, self._shards, self._owners, self._cuts = states, shards, owners, Cuts()
        self.kept: list[tuple[Entry, str, Any]] = []
        self.made: list[tuple[Entry, str]] = []
        self.owners: list[tuple[Any, Entry]] = []
        self.counted = False
        self.elements: dict[str, str] = {}

    def __call__(self, stepper: Stepper) -> None:
        """Gives each item its arrays, its order in memory and its step count."""
        self.counted = is_counted(stepper.rule, stepper.flags) or stepper.settings.lookahead is not None
        rule, names = stepper.rule, {state_kind(name): key for name, key in state_names(stepper.rule).items()}
        kept = slots.states(rule, rule.kept(stepper.flags))
        kept += slots.copies(stepper.settings)
        wanted = [slot for slot in kept if slot.lasts]
        extents.check_matrices(rule, stepper.items)
        slots.allocate(stepper.items, [slot for slot in kept if not slot.lasts])
        slots.allocate(stepper.items, [slot for slot in wanted if slot.extent == "list"], stepper.hypers.groups)
        wanted = [slot for slot in wanted if slot.extent != "list"]  # of all tensors: see listed.py
        if not wanted and not self.counted:
            return
        self.elements = {slot.kind: names.get(slot.kind, slot.kind) for slot in wanted if slot.extent == "element"}
        for item in stepper.items:
            param = self._shards.whole(item.source)
            entry = self._states[param]
            self.owners.append((param, entry))
            item.order = memory.order_of(item.array) if stepper.walks_memory else None
            item.shared = rule.states_of("list")
            held = [name for slot in wanted if (name := names.get(slot.kind)) and entry.peek(name) is not None]
            if held and STEP not in entry and counts_by_flag(rule, stepper.flags):
                expected = f"a step count beside {held[0]!r}, or neither"
                Place(rule.name, tree.shown(f"state[{STEP!r}]", item.path)).fail(ValueError, expected, "none")
            item.t = self._count(entry, held)
        self._allocate(stepper, wanted, names)
        for item, (param, entry) in zip(stepper.items, self.owners, strict=True):
            for slot in wanted:
                groups, key = stepper.hypers.groups, names.get(slot.kind, slot.kind)
                shape = slots.shape_in(slot, item, tuple(param.shape), groups)
                if slot.extent in SIDES and id(param) in self._owners:
                    shape = self._factor(param, entry, key, shape)
                item.slots[slot.kind] = self._array(item, entry, key, slot, shape, groups)

    def _allocate(self, stepper: Stepper, wanted: list[Slot], names: Mapping[str, str]) -> None:
        """Makes the arrays of elements that there are not yet, one after the other: a step over many tensors then walks
        straight ahead, and finds huge pages."""
        for slot in wanted:
            if slot.extent == "element":
                key, each = names.get(slot.kind, slot.kind), zip(stepper.items, self.owners, strict=True)
                lacking = [item for item, (_, entry) in each if entry.peek(key) is None]
                slots.allocate(lacking, [slot], stepper.hypers.groups)

    def _count(self, entry: Entry, held: list[str]) -> int:
        if not self.counted:  # torch's SGD knows the first step by that there is no state
            return int(bool(held))
        if STEP not in entry:
            self.made.append((entry, STEP))
            entry.keep(STEP, torch.zeros((), device="cpu"))
        return max(int(entry.peek(STEP)), 0)

    def _factor(self, param: Any, entry: Entry, key: str, shape: Shape) -> Shape:
        """The shape of what is here of a factor; of one that was loaded the parts come together."""
        owner, factor = self._owners[id(param)], entry.peek(key)
        if is_dtensor(factor):
            entry.keep(key, self._cuts.brought_together(factor, param, owner))
        return shape_here(shape, param, owner)

    def _array(self, item: Item, entry: Entry, key: str, slot: Slot, shape: Shape, groups: Groups) -> Array:
        param, tensor = item.source.detach(), entry.peek(key)
        whole = self._shards.whole(item.source)
        if tensor is None:
            self.made.append((entry, key))
            part = _numbers(slot, item, shape, groups) if slot.extent != "element" else _tensor(item.slots[slot.kind])
        else:
            _check_shared(item, key, tensor, whole if slot.extent == "element" else param)
            part = part_of(tensor)
            _check(item, key, part, _like(whole, slot, item, shape))
        array = _view(part)
        if not memory.is_direct(item.in_memory(array) if slot.extent == "element" else array):
            part = _laid_as(param, part, item.order if slot.extent == "element" else None)
            array = _view(part)
        if tensor is not None and not is_dtensor(tensor) and part is not tensor:
            tensor.data = part  # whoever holds it goes on to see it move
            entry.keep(key, tensor)
        elif part is not part_of(tensor):
            tensor = like(whole, part) if slot.extent == "element" else part
            entry.keep(key, tensor)
        self.kept.append((entry, key, tensor))
        return array

    def follow(self, items: list[Item]) -> list[Assignment]:
        """Makes states that lie as their parameters do, some of which were given other memory. Assigned, they are what
        the tensors hold that others know; every run looks then for where states are."""
        laid: list[Assignment] = []
        for item, (_, entry) in zip(items, self.owners, strict=True) if self.owners else ():
            order = memory.order_of(item.array)
            if order == item.order:
                continue
            item.order = order
            for kind, key in self.elements.items():
                tensor = part_of(entry.peek(key))
                part = _laid_as(item.source.detach(), tensor, order)
                item.slots[kind] = _view(part)
                laid.append((setattr, tensor, "data", part))
        number = self._states.revision.number + len(laid)
        return [(setattr, self._states.revision, "number", number), *laid] if laid else []

    def tensors(self) -> list[Any]:
        """All that a step reads and writes of the states, step counts included."""
        counts = [entry.peek(STEP) for _, entry in self.owners] if self.counted else []
        return [*(part_of(tensor) for _, _, tensor in self.kept), *counts]

    def intact(self) -> bool:
        """Whether the states are still those that are in the entries, and these in the optimizer's state."""
        owned = all(self._states.get(param) is entry for param, entry in self.owners)
        return owned and all(entry.peek(key) is tensor for entry, key, tensor in self.kept)

    def withdraw(self) -> None:
        """Takes back what was made."""
        for entry, key in self.made:
            entry.drop(key)
        for param, entry in self.owners:
            if not entry:
                self._states.pop(param, None)


def _numbers(slot: Slot, item: Item, shape: Shape, groups: Groups) -> Any:
    """A new tensor of numbers of ranges of elements."""
    made = torch.zeros(shape, dtype=getattr(torch, slots.type_in(slot, item)), device="cpu")
    _view(made)[...] = slots.start_of(slot, item, groups)
    return made


def _like(param: Any, slot: Slot, item: Item, shape: Shape) -> Any:
    """What a tensor is to be like that is handed in: what is here of the parameter; or of a shape, what is of all."""
    if slot.extent != "element":
        return torch.empty(shape, dtype=getattr(torch, slots.type_in(slot, item)), device="meta")
    dtype = getattr(torch, slot.storage) if slot.storage else None
    return torch.empty_like(part_of(param), dtype=dtype, device="meta")


def _tensor(array: Array) -> Any:
    """The same memory as a tensor; bits of bfloat16 as such numbers."""
    is_bits = array.dtype == np.uint16
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if is_bits else torch.from_numpy(array)


def _check_shared(item: Item, key: str, tensor: Any, whole: Any) -> None:
    place = Place(item.place.rule, tree.shown(f"state[{key!r}]", item.path))
    if is_dtensor(whole) and not is_shared_as(tensor, whole):
        expected = f"a DTensor of placements {whole.placements}, as its parameter"
        place.fail(TypeError, expected, f"one of {tensor.placements}" if is_dtensor(tensor) else type(tensor).__name__)
    if is_dtensor(tensor) and not is_dtensor(whole):
        place.fail(TypeError, "a tensor, as its parameter is", f"a DTensor of placements {tensor.placements}")


def _check(item: Item, key: str, tensor: Any, expected: Any) -> None:
    place = Place(item.place.rule, tree.shown(f"state[{key!r}]", item.path))
    if not isinstance(tensor, torch.Tensor) or tensor.device.type != "cpu":
        place.fail(TypeError, "a tensor on the CPU", str(getattr(tensor, "device", type(tensor).__name__)))
    if tensor.dtype != expected.dtype:
        place.fail(TypeError, str(expected.dtype), str(tensor.dtype))
    if tensor.shape != expected.shape:
        place.fail(ValueError, f"shape {tuple(expected.shape)}", f"shape {tuple(tensor.shape)}")


def _laid_as(param: Any, tensor: Any, order: tuple[int, ...] | None) -> Any:
    """The values in memory as the parameter's are, or contiguous."""
    if order is None:
        return tensor.contiguous()
    return torch.empty_like(param, dtype=tensor.dtype).copy_(tensor)


def _view(tensor: Any) -> Array:
    """The tensor as an array; bfloat16 as its bits."""
    plain = tensor.detach()
    array: Array = plain.view(torch.int16).numpy().view(np.uint16) if plain.dtype == torch.bfloat16 else plain.numpy()
    return array
