"""DTensors: tensors of which each rank holds a part (torch.distributed.tensor), as FSDP2 makes them of parameters.

A step moves the parts that are here, which are torch's tensors as any other; states are DTensors like their parameters.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from fastupdate.arrays.place import Place
from fastupdate.rules.rule import Rule
from fastupdate.step.options import Settings
from fastupdate.torch.looking import same_objects


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
    """Whether there is an element that is not zero, on whatever rank."""
    count = (tensor.detach() != 0).sum()
    return bool((count.full_tensor() if is_dtensor(count) else count).item())


def _check_possible(rule: Rule, settings: Settings, split: list[Any]) -> None:
    """Raises if a step would have to know more of these parameters than what is here of each."""
    for p in split:
        if any(placement.is_partial() for placement in p.placements):
            expected = "parameters that are sharded or replicated"
            Place(rule.name, "params").fail(ValueError, expected, f"one of placements {p.placements}")
    by_ranges = settings.clip_unit_norm is not None or needs_sums(rule, settings)
    for p in split if by_ranges else ():
        if group_of(p) is None:
            expected = "parameters cut along their first axis (Shard(0)), where a step depends on more than an element"
            Place(rule.name, "params").fail(TypeError, expected, f"one of placements {p.placements}")


def needs_sums(rule: Rule, settings: Settings) -> bool:
    """Whether a step needs to know, beside norms of gradients, what tensors add up to."""
    return bool(rule.phases or settings.measuring or settings.monitor)


def ranks_of(p: Any) -> list[Any]:
    """The groups of ranks that have different elements of a parameter, if this rank is one of those that share it."""
    if p.device_mesh.get_coordinate() is None:
        return []
    cut = [axis for axis, placement in enumerate(p.placements) if not placement.is_replicate()]
    return [p.device_mesh.get_group(axis) for axis in cut]


def group_of(p: Any) -> Any:
    """The ranks that share a parameter by ranges of its elements; None if each has all of it, or no range of it."""
    if not is_dtensor(p):
        return None
    cut = [axis for axis, placement in enumerate(p.placements) if not placement.is_replicate()]
    by_ranges = len(cut) == 1 and p.placements[cut[0]].is_shard(0)
    return p.device_mesh.get_group(cut[0]) if by_ranges else None


def groups_of(params: Iterable[Any]) -> list[tuple[Any, list[Any]]]:
    """Ranks that share parameters, and which of these they share by ranges of their elements."""
    groups: dict[str, tuple[Any, list[Any]]] = {}
    for p in filter(is_split, params):
        by_ranges = group_of(p)
        for group in ranks_of(p) if by_ranges is None else [by_ranges]:
            shared = groups.setdefault(group.group_name, (group, []))[1]
            shared += [] if by_ranges is None else [p]
    return [*groups.values()]


def is_split(p: Any) -> bool:
    """Whether other ranks have other parts of a parameter."""
    return is_dtensor(p) and not all(placement.is_replicate() for placement in p.placements)


class Shards:
    """The DTensors among some parameters.

    params, parts   they, and what is here of each
    """

    def __init__(self, rule: Rule, options: Mapping[str, Any], params: Iterable[Any]) -> None:
        self._rule = rule.name
        self.params = [p for p in params if is_dtensor(p)]
        self.parts = [p._local_tensor for p in self.params]
        self._whole = {id(part): p for part, p in zip(self.parts, self.params, strict=True)}
        split = [p for p in self.params if is_split(p)]
        if split:
            _check_possible(rule, Settings(rule.name, **options), split)

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
