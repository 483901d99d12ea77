"""States of which each rank has a part ↔ those of whole tensors, as one process has them and files hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from fastupdate.arrays import tree
from fastupdate.arrays.memory import Array
from fastupdate.arrays.place import Place
from fastupdate.saving import file
from fastupdate.saving import state as saving
from fastupdate.saving.checks import Rename
from fastupdate.saving.loading import Loaded, loading
from fastupdate.sharded.alike import Ranks
from fastupdate.sharded.division import Division
from fastupdate.sharded.messages import Messages
from fastupdate.step import slots
from fastupdate.step.stepper import Stepper
from fastupdate.step.tensors import Item
from fastupdate.step.transaction import at_once

if TYPE_CHECKING:
    from fastupdate.sharded.optimizer import Optimizer


def give(ranks: Ranks, division: Division, arrays: Mapping[int, Array]) -> None:
    """Gives all ranks the elements of these arrays, by the places of their tensors, that each has."""
    buckets = division.buckets([*arrays])
    flat = [array.reshape(-1) for array in arrays.values()]
    bits = [array.view(np.uint16) if array.itemsize == 2 else array for array in flat]  # MPI has no narrow types
    Messages(ranks, buckets, bits, None).gather(range(len(buckets)))


def _extents(stepper: Stepper) -> dict[str, str]:
    """What there is one number for in the arrays of each kind."""
    kept = slots.states(stepper.rule, stepper.rule.kept(stepper.flags))
    return {slot.kind: slot.extent for slot in [*kept, *slots.copies(stepper.settings)]}


class Owners:
    """Which rank has what of the arrays of an optimizer.

    places   of the tensors, by name
    """

    def __init__(self, opt: Optimizer) -> None:
        self._extents = _extents(opt.stepper)
        self._ranges, self._rank = opt.division.ranges, opt.ranks.rank
        self._shapes = {item.name: item.array.shape for item in opt.wholes}
        self.places = {name: k for k, name in enumerate(self._shapes)}

    def shape(self, kind: str, name: str) -> Any:
        """The shape of the whole, where each rank has the elements that it moves; None: one rank has all of it."""
        return self._shapes[name] if kind == "param" or self._extents.get(kind) == "element" else None

    def here(self, name: str) -> slice:
        """Which elements of a tensor are here."""
        r = self._ranges[self._rank][self.places[name]]
        return slice(r.begin, r.end)

    def has(self, name: str) -> bool:
        """Whether this is the rank whose numbers of a tensor count: the first that moves elements of it."""
        ranges = [of_rank[self.places[name]] for of_rank in self._ranges]
        movers = [rank for rank, r in enumerate(ranges) if r.begin < r.end]
        return bool(self._rank == (movers or [0])[0])


def gathered(opt: Optimizer, root: int | None) -> dict[str, Any]:
    """The state as one process has it, without the parameters; on one rank, or on all, and {} elsewhere."""
    owners, here = Owners(opt), root in (None, opt.ranks.rank)
    state = saving.snapshot(opt.stepper, params=False)
    own: dict[str, Array] = state.pop("arrays")
    whole: dict[str, Any] = dict.fromkeys(own)  # in this order
    by_kind: dict[str, dict[int, tuple[str, Array]]] = {}
    for key, array in own.items():
        kind, name = saving.split(key)
        if owners.shape(kind, name) is not None:
            by_kind.setdefault(kind, {})[owners.places[name]] = key, array
    for arrays in by_kind.values():
        made = {}
        for k, (key, array) in arrays.items():
            name = saving.split(key)[1]
            made[k] = np.empty(opt.wholes[k].array.shape, array.dtype)
            made[k].reshape(-1)[owners.here(name)] = array.reshape(-1)
        give(opt.ranks, opt.division, made)
        whole |= {key: made[k] for k, (key, _) in arrays.items()} if here else {}
    numbers = {key: array.copy() for key, array in own.items() if _is_number(owners, key)}
    for told in opt.ranks.comm.allgather({key: n for key, n in numbers.items() if owners.has(saving.split(key)[1])}):
        whole |= told
    return {**state, "arrays": whole} if here else {}


def _is_number(owners: Owners, key: str) -> bool:
    return owners.shape(*saving.split(key)) is None


def write(path: str | PathLike[str], state: Mapping[str, Any], whole: Sequence[Item]) -> None:
    """Writes a gathered state and the parameters to a file."""
    params = {f"param.{item.name}": item.array for item in whole}
    file.write(path, {**state, "arrays": {**state["arrays"], **params}})


def load(opt: Optimizer, state: Mapping[str, Any], strict: bool, rename: Rename | None) -> Loaded:
    """Takes over this rank's part of a state, after every check; all ranks do, or none."""
    problem, new = None, None
    try:
        own = {**state, "arrays": _cut(opt, state["arrays"], rename)}
        opt.stepper.plan.keep_times()
        new = loading(opt.stepper, own, strict=strict, rename=rename)
    except Exception as error:
        problem = error
    facts = {} if problem else {"state_dict": f"one of {len(state['arrays'])} arrays after {state['step']} steps"}
    opt.ranks.agree(problem, repr(facts).encode(), lambda: facts)
    assert new is not None
    at_once(new.assignments, new.schedules)
    return new.report


def _cut(opt: Optimizer, arrays: Mapping[str, Any], rename: Rename | None) -> dict[str, Any]:
    """This rank's part of the arrays of a state; what has no place here stays as it is, to be named."""
    owners = Owners(opt)
    items = {item.name: item for item in opt.stepper.items}
    found = {}
    for key, array in arrays.items():
        kind, name = saving.split(key)
        name = rename(name) if callable(rename) else (rename or {}).get(name, name)
        item = items.get(name)
        here = None if item is None else item.array if kind == "param" else item.slots.get(kind)
        if here is None:
            found[key] = array
            continue
        shape, array = owners.shape(kind, name), np.asarray(array)
        if shape is None:
            found[key] = array if owners.has(name) or array.shape == here.shape else here
        elif array.shape != shape:
            place = Place(opt.rule.name, tree.shown("state_dict", ("arrays", key)))
            place.fail(ValueError, f"shape {shape}", f"shape {array.shape}")
        else:
            found[key] = array.reshape(-1)[owners.here(name)].reshape(here.shape)
    return found
