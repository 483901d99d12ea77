"""States of which each rank has a part ↔ those of whole tensors, as one process has them and files hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from fastupdate.arrays import tree
from fastupdate.arrays.memory import Array
from fastupdate.arrays.place import Place
from fastupdate.rules.extent import Extent
from fastupdate.saving import file
from fastupdate.saving import state as saving
from fastupdate.saving.loading import Loaded, Rename, loading
from fastupdate.sharded.alike import Ranks
from fastupdate.sharded.division import Division
from fastupdate.sharded.messages import Messages
from fastupdate.step import slots
from fastupdate.step.stepper import Stepper
from fastupdate.step.tensors import Item
from fastupdate.step.transaction import at_once

if TYPE_CHECKING:
    from fastupdate.sharded.optimizer import Optimizer


def give(ranks: Ranks, division: Division, arrays: Sequence[Array]) -> None:
    """Gives all ranks the elements of these arrays that each has."""
    buckets = division.buckets(range(len(arrays)))
    Messages(ranks, buckets, [array.reshape(-1) for array in arrays], None).gather(range(len(buckets)))


def _extents(stepper: Stepper) -> dict[str, Extent]:
    """What there is one number for in the arrays of each kind."""
    kept = slots.states(stepper.rule, stepper.rule.kept(stepper.flags))
    return {slot.kind: slot.extent for slot in [*kept, *slots.copies(stepper.settings)]}


class Owners:
    """Which rank has what of the arrays of an optimizer."""

    def __init__(self, opt: Optimizer) -> None:
        self._extents = _extents(opt.stepper)
        self._by_elements, self._ranges = opt.by_elements, opt.division.ranges
        self._places = {item.name: k for k, item in enumerate(opt.stepper.items)}
        self.shapes = {item.name: item.array.shape for item in opt.wholes}

    def whole_shape(self, kind: str, name: str) -> Any:
        """Of an array that ranks have parts of; None: it is on one rank, or the same on all."""
        elements = kind == "param" or self._extents.get(kind) == "element"
        return self.shapes[name] if elements and self._by_elements else None

    def has(self, rank: int, name: str) -> bool:
        """Whether a rank has the arrays of a tensor that are not in parts: the first that has elements of it."""
        k = self._places[name]
        owners = [each for each, ranges in enumerate(self._ranges) if ranges[k].begin < ranges[k].end]
        return rank == (owners or [0])[0]

    def ends(self, rank: int, name: str) -> slice:
        """Which elements of a tensor a rank has."""
        r = self._ranges[rank][self._places[name]]
        return slice(r.begin, r.end)


def gathered(opt: Optimizer, root: int | None) -> dict[str, Any]:
    """The state as one process has it, without the parameters; on one rank, or on all, and {} elsewhere."""
    owners, comm, rank = Owners(opt), opt.ranks.comm, opt.ranks.rank
    state = saving.snapshot(opt.stepper, params=False)
    arrays = {}
    for key, array in state.pop("arrays").items():
        kind, name = saving.split(key)
        shape = owners.whole_shape(kind, name)
        own = np.asarray(array) if shape is not None or owners.has(rank, name) else None
        told = comm.allgather(own) if root is None else comm.gather(own, root)
        if told is not None:
            found = [each for each in told if each is not None]
            arrays[key] = found[0].copy() if shape is None else np.concatenate(found).reshape(shape)
    return {**state, "arrays": arrays} if root in (None, rank) else {}


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
    owners, rank = Owners(opt), opt.ranks.rank
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
        shape, array = owners.whole_shape(kind, name), np.asarray(array)
        if shape is None:
            found[key] = array if owners.has(rank, name) or array.shape == here.shape else here
        elif array.shape != shape:
            place = Place(opt.rule.name, tree.shown("state_dict", ("arrays", key)))
            place.fail(ValueError, f"shape {shape}", f"shape {array.shape}")
        else:
            found[key] = array.reshape(-1)[owners.ends(rank, name)]
    return found
