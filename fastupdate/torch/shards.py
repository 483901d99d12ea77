"""DTensors: tensors of which each rank holds a part (torch.distributed.tensor), as FSDP2 makes them of parameters.

A step moves the parts that are here, which are torch's tensors as any other; states are DTensors like their parameters.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch

from fastupdate.arrays.place import Place
from fastupdate.rules.extent import Shape
from fastupdate.rules.rule import Rule
from fastupdate.sharded.boxes import Box
from fastupdate.step.options import Settings
from fastupdate.torch.looking import same_objects
from fastupdate.torch.messages import Peers


def is_dtensor(x: Any) -> bool:
    """Whether ranks share this tensor; nothing is imported, for without that module there is none."""
    module: Any = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def part_of(tensor: Any) -> Any:
    """What is here of a tensor: its local part, or all of it."""
    return tensor._local_tensor if is_dtensor(tensor) else tensor


def like(whole: Any, part: Any, shape: tuple[int, ...] | None = None) -> Any:
    """The tensor whose part here this is, shared as another one is, of the same shape or of this one, contiguous."""
    if not is_dtensor(whole):
        return part
    module: Any = sys.modules["torch.distributed.tensor"]
    shape, stride = (
        (whole.shape, whole.stride()) if shape is None else (shape, torch.empty(shape, device="meta").stride())
    )
    found = module.DTensor.from_local(
        part, whole.device_mesh, whole.placements, run_check=False, shape=torch.Size(shape), stride=stride
    )
    found._local_tensor = part  # not a view of it
    return found


def is_shared_as(tensor: Any, whole: Any) -> bool:
    """Whether each rank has of one the part that it has of the other."""
    return is_dtensor(tensor) and (
        tensor._spec is whole._spec
        or (tensor.placements == whole.placements and tensor.device_mesh == whole.device_mesh)
    )


def has_nonzero(tensor: Any) -> bool:
    """Whether there is an element that is not zero, on whatever rank; of a sparse tensor all values are looked at."""
    found = tensor.detach()
    count = ((found._values() if found.is_sparse else found) != 0).sum()
    return bool((count.full_tensor() if is_dtensor(count) else count).item())


def needs_sums(rule: Rule, settings: Settings) -> bool:
    """Whether a step needs to know, beside norms of gradients, what tensors add up to."""
    return bool(rule.phases or settings.measuring or settings.monitor)


def peers_of(params: Iterable[Any]) -> list[tuple[Peers, list[Any]]]:
    """Ranks that share parameters, if this is one of them, and which of these they share."""
    found: dict[tuple[str, ...], tuple[Peers, list[Any]]] = {}
    for p in (p for p in params if is_split(p) and is_among(p)):
        mesh = p.device_mesh
        cut = [axis for axis, placement in enumerate(p.placements) if not placement.is_replicate()]
        groups = [mesh.get_group(axis) for axis in cut]
        name = tuple(group.group_name for group in groups)
        if name not in found:
            members = [slice(None) if axis in cut else at for axis, at in enumerate(mesh.get_coordinate())]
            found[name] = Peers(groups, mesh.mesh[tuple(members)].reshape(-1).tolist()), []
        found[name][1].append(p)
    return [*found.values()]


def boxes_of(params: Iterable[Any]) -> list[Box | None]:
    """Which elements of these parameters are here, along each axis; None for one of which they are no box."""
    known: dict[Any, Any] = {}
    found: list[Box | None] = []
    for p in params:
        box = along(tuple(p.shape), p, known)
        here = tuple(each.stop - each.start for each in box if isinstance(each, slice))
        found.append(box if here == p._local_tensor.shape else None)
    return found


def along(shape: Shape, p: Any, known: dict[Any, Any]) -> tuple[Any, ...]:
    """Which elements are here, along each axis, of a tensor of this shape that is shared as a parameter is: a slice, or
    their numbers, if they do not follow each other. known: what is found of lengths and placements, for further ones"""
    module: Any = sys.modules["torch.distributed.tensor"]
    found: list[Any] = [slice(0, size) for size in shape]
    for axis in {each.dim for each in p.placements if not each.is_replicate()}:
        key = shape[axis], axis, len(shape), p.device_mesh, p.placements
        if key not in known:
            whole = torch.arange(shape[axis], device="cpu").view([1] * axis + [-1] + [1] * (len(shape) - axis - 1))
            placements = [each if getattr(each, "dim", None) == axis else module.Replicate() for each in p.placements]
            here = module.distribute_tensor(whole, p.device_mesh, placements, src_data_rank=None).to_local().view(-1)
            begin = int(here[0]) if len(here) else 0
            follow = torch.equal(here, torch.arange(begin, begin + len(here), device="cpu"))
            known[key] = slice(begin, begin + len(here)) if follow else here
        found[axis] = known[key]
    return tuple(found)


def is_split(p: Any) -> bool:
    """Whether other ranks have other parts of a parameter."""
    return is_dtensor(p) and not all(placement.is_replicate() for placement in p.placements)


def is_among(p: Any) -> bool:
    """Whether this rank is one of those that share a parameter."""
    return p.device_mesh.get_coordinate() is not None


class Shards:
    """The DTensors among some parameters.

    params, parts   they, and what is here of each
    """

    def __init__(self, rule: Rule, params: Iterable[Any]) -> None:
        self._rule = rule.name
        self.params = [p for p in params if is_dtensor(p)]
        self.parts = [p._local_tensor for p in self.params]
        self._whole = {id(part): p for part, p in zip(self.parts, self.params, strict=True)}
        for p in self.params:
            if any(placement.is_partial() for placement in p.placements):
                expected = "parameters that are sharded or replicated"
                Place(rule.name, "params").fail(ValueError, expected, f"one of placements {p.placements}")

    def whole(self, part: Any) -> Any:
        """The parameter that this is a part of, or is."""
        return self._whole.get(id(part), part)

    def intact(self) -> bool:
        """Whether the parts are still those of the parameters."""
        return bool(same_objects([p._local_tensor for p in self.params], self.parts))

    def hand_over(self) -> None:
        """Lets each part hold its part of the gradient, where a step looks for it; tells autograd of the step."""
        for p, part in zip(self.params, self.parts, strict=True):
            grad = p.grad
            if grad is not None:
                if not is_shared_as(grad, p):
                    expected = f"a DTensor of placements {p.placements}, as its parameter"
                    received = f"one of {grad.placements}" if is_dtensor(grad) else type(grad).__name__
                    Place(self._rule, "grads").fail(TypeError, expected, received)
                grad = grad._local_tensor
                if grad.dtype != part.dtype:
                    part.grad_dtype = p.grad_dtype
            part.grad = grad
        if self.params:
            torch.autograd.graph.increment_version(self.params)

    def take_back(self) -> None:
        """Lets go of the gradients."""
        for part in self.parts:
            part.grad = None
