"""Pieces of a batch: backward passes on any number of ranks that leave the same gradients, to the last bit.

In DDP and FSDP2 the number of ranks, the engine and the network decide in which order gradients add up. Pieces have an
order of their own. Of R ranks, the r-th works on pieces r, R + r, 2R + r, …, so that each backward pass brings the
next R of them. A rank gets of all of these what it is to add up, which it does pairwise (fastupdate/sharded/pieces.py).

Ranks on a mesh of two axes have a process group along each; the last axis counts fastest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import distributed

from fastupdate.arrays.place import Place
from fastupdate.sharded import pieces as order
from fastupdate.torch.inputs import check_model
from fastupdate.torch.shards import is_split, like, part_of


class Pieces:
    """The pieces of a batch that this rank works on.

        pieces = fu.torch.Pieces(model, 12)  # however many ranks there are
        for k in pieces:  # of 0 … 11, those of this rank
            loss_of(model(inputs[k]), targets[k]).backward()
        optimizer.step()

    After the loop each `p.grad` is the mean of the gradients of all pieces, added up in their own type as (0 + 1) +
    (2 + 3) and so on, whichever rank has worked on which; what it held before is gone. So a whole training has the same
    bits on 1, 2, 3 … ranks, as long as the gradients of one piece have. Where a piece gives a parameter no gradient, it
    counts as zeros, and as none where no piece has one. A loop that is left early leaves gradients as they are then.

    model   a module that all ranks have whole, or that DistributedDataParallel holds, or that `fully_shard` has cut up
            over all ranks, or over those of each replica. FSDP2 goes on to add up pairwise in backward passes beside
            such loops, too
    count   pieces of a batch, a multiple of the number of ranks
    group   of the ranks that have the model whole; None: DDP's, or the default one

    `len(pieces)` is how many are this rank's. TypeError or ValueError names a model or a count that is none of these,
    and in the loop a sparse gradient or a turn without one backward pass.
    """

    def __init__(self, model: torch.nn.Module, count: int, group: Any = None) -> None:
        check_model(Place("pieces", "model"), model)
        params = [p for p in model.parameters() if p.requires_grad]
        over_a_mesh: list[Any] = [p for p in params if is_split(p)]
        cut = {id(p) for p in over_a_mesh if p.device_mesh.size() > 1}
        self._model, self._params = model, [p for p in params if id(p) not in cut]
        self._groups = _groups_of(model, over_a_mesh, group)
        self._rank, self._ranks = 0, math.prod(_sizes(self._groups))
        for axis in self._groups:
            self._rank = self._rank * distributed.get_world_size(axis) + distributed.get_rank(axis)
        if type(count) is not int or count < 1 or count % self._ranks:
            expected = f"a multiple of the number of ranks, {self._ranks} (12 is one for 1, 2, 3, 4, 6 and 12)"
            Place("pieces", "count").fail(ValueError, expected, repr(count))
        self._count = count
        self._sums = _take_over(model, self._ranks, self._groups[:-1]) if cut else []

    def __len__(self) -> int:
        """How many this rank works on."""
        return self._count // self._ranks

    def __iter__(self) -> Iterator[int]:
        for p in self._model.parameters():
            p.grad = None
        for module in self._sums:
            module.expect(self._count)
        whole = [_Whole(params, self._groups) for params in self._by_type()]
        try:
            with self._unsynchronized():
                for first in range(0, self._count, self._ranks):
                    yield first + self._rank
                    self._check(first + self._ranks)
                    for each in whole:
                        each.take()
            for each in whole:
                each.give(self._count)
        finally:
            for module in self._sums:
                module.expect(self._ranks)

    def _by_type(self) -> list[list[Any]]:
        """The parameters that are whole on each rank."""
        found: dict[Any, list[Any]] = {}
        for p in self._params:
            found.setdefault((p.dtype, p.device), []).append(p)
        return [*found.values()]

    def _unsynchronized(self) -> AbstractContextManager[Any]:
        if isinstance(self._model, torch.nn.parallel.DistributedDataParallel):
            context: AbstractContextManager[Any] = self._model.no_sync()
            return context
        return nullcontext()

    def _check(self, came: int) -> None:
        if any(each.count not in (0, came % self._count) for each in self._sums):
            expected = "in each turn of the loop one backward pass, of the same modules on all ranks"
            Place("pieces", "model").fail(ValueError, expected, "others")


def _groups_of(model: torch.nn.Module, over_a_mesh: list[Any], group: Any) -> list[Any]:
    """The ranks that work on a batch together, along each axis of them; none: this one alone."""
    for p in over_a_mesh:
        mesh = p.device_mesh
        one_of_each = mesh.ndim == 2 and p.placements[0].is_replicate() and mesh.size(1) > 1
        if not (mesh.ndim == 1 or one_of_each) or mesh != over_a_mesh[0].device_mesh:
            expected = "parameters that are cut up over one mesh, of one axis or along the second of two"
            Place("pieces", "model").fail(ValueError, expected, f"{p.placements} on {mesh}")
    if over_a_mesh:
        mesh = over_a_mesh[0].device_mesh
        return [mesh.get_group(axis) for axis in range(mesh.ndim)]
    if group is None and distributed.is_available() and distributed.is_initialized():
        is_held = isinstance(model, torch.nn.parallel.DistributedDataParallel)
        group = model.process_group if is_held else distributed.group.WORLD
    return [] if group is None else [group]


def _sizes(groups: list[Any]) -> list[int]:
    return [distributed.get_world_size(group) for group in groups]


def _take_over(model: torch.nn.Module, ranks: int, replicas: list[Any]) -> list[_Sums]:
    """Lets each module of FSDP2's add up its gradients in order."""
    from torch.distributed.fsdp import FSDPModule

    found = []
    for module in model.modules():
        if isinstance(module, FSDPModule):
            found.append(_Sums(ranks, replicas))
            module.set_custom_reduce_scatter(found[-1])  # type: ignore[arg-type] # one in all but its base
            module.set_gradient_divide_factor(1.0)  # else some types are divided in part before they are added up
    if not found:
        Place("pieces", "model").fail(TypeError, "a module that fully_shard has cut up", type(model).__name__)
    return found


def _exchanged(message: Any, groups: list[Any]) -> Any:
    """What this rank is to add up, a row of each rank: `message` has what each is to, one after the other."""
    sizes = _sizes(groups)
    parts = message.view(*sizes, -1)
    for axis, group in enumerate(groups):
        if sizes[axis] > 1:
            sent = parts.movedim(axis, 0).contiguous()
            came = torch.empty_like(sent)
            distributed.all_to_all_single(came, sent, group=group)
            parts = came.movedim(0, axis)
    return parts.reshape(math.prod(sizes), -1)


def _gathered(part: Any, groups: list[Any]) -> Any:
    """Those of all ranks, one after the other."""
    for group in reversed(groups):
        if distributed.get_world_size(group) > 1:
            whole = part.new_empty(distributed.get_world_size(group), *part.shape)
            distributed.all_gather([*whole], part, group=group)
            part = whole
    return part


class _Sums:
    """The reduce-scatter of one module of FSDP2's: the mean of all pieces, once all have come.

    Replicas tell each other theirs before they are added up. What FSDP2 adds up of replicas then is that of the first.
    """

    def __init__(self, expected: int, replicas: list[Any]) -> None:
        self._replicas = replicas
        self._is_first = not any(distributed.get_rank(group) for group in replicas)
        self.expect(expected)

    def expect(self, count: int) -> None:
        """Begins anew, with so many pieces to come."""
        self._expected, self._pieces = count, order.Pieces(0)

    @property
    def count(self) -> int:
        """The pieces that have come, of those that are not added up yet."""
        return self._pieces.count

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Any:
        """Room for a message."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Any, input_tensor: Any, group: Any, op: Any, async_op: bool = False) -> None:
        rows = _gathered(_exchanged(input_tensor, [group]), self._replicas)
        for row in rows.view(-1, len(output_tensor)):
            self._pieces.add([row.clone()])
        output_tensor.fill_(-0.0)  # FSDP2 adds other outputs to it, and is left with their bits
        if self._pieces.count < self._expected:
            return
        if self._is_first:
            torch.div(self._pieces.whole()[0], self._expected, out=output_tensor)
        self._pieces.forget()


class _Whole:
    """Gradients of parameters of one type that all ranks have whole, as one vector, of which each rank adds up a part.

    Behind them each piece says of each parameter whether it has a gradient.
    """

    def __init__(self, params: list[Any], groups: list[Any]) -> None:
        self._params, self._groups = params, groups
        self._pieces = order.Pieces(0)

    def take(self) -> None:
        """Takes the gradients of the next pieces from the parameters."""
        grads = [p.grad for p in self._params]
        for g in grads:
            if g is not None and g.layout != torch.strided:
                Place("pieces", "model").fail(TypeError, "dense gradients (sparse=False)", str(g.layout))
        there = torch.tensor([g is not None for g in grads], device=self._params[0].device)
        parts = [part_of(p if g is None else g).detach() for p, g in zip(self._params, grads, strict=True)]
        values = [x.new_zeros(x.numel()) if g is None else x.reshape(-1) for x, g in zip(parts, grads, strict=True)]
        message = torch.cat([*values, there.to(self._params[0].dtype)])
        message = torch.nn.functional.pad(message, (0, -len(message) % math.prod(_sizes(self._groups))))
        for row in _exchanged(message, self._groups):
            self._pieces.add([row.clone()])
        for p in self._params:
            p.grad = None

    def give(self, count: int) -> None:
        """Gives the parameters the mean of so many pieces."""
        whole = _gathered(self._pieces.whole()[0] / count, self._groups).view(-1)
        sizes = [part_of(p).numel() for p in self._params]
        *means, there, _ = whole.split([*sizes, len(sizes), len(whole) - sum(sizes) - len(sizes)])
        for p, values, known in zip(self._params, means, there.tolist(), strict=True):
            if known:
                part = part_of(p)
                p.grad = like(p, torch.empty_like(part, requires_grad=False).copy_(values.view(part.shape)))
