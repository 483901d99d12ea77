"""Trainings by pieces of batches beside one process that adds up the same; run by tests/test_sharded.py on ranks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from ranks import Check, Ranks
from sharded_steps import bits, full
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import fastupdate as fu

COUNT, STEPS = 12, 3
INPUTS = torch.randn(STEPS, COUNT, 5, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


class Model(torch.nn.Module):
    """Uneven layers; `rare` has a gradient in one piece alone, `never` in none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.last = torch.nn.Linear(7, 33), torch.nn.Linear(33, 2)
        self.rare = torch.nn.Parameter(torch.full((3,), 0.5))
        self.never = torch.nn.Parameter(torch.full((2,), 0.5))
        self.fixed = torch.nn.Parameter(torch.full((2,), 0.5), requires_grad=False)

    def forward(self, x: Any, k: int) -> Any:
        y = self.last(torch.tanh(self.first(x))) + self.fixed
        return y * self.rare.sum() if k == 5 else y


def loss_of(y: Any) -> Any:
    return y.square().mean()


def pairwise(gradients: list[Any]) -> Any:
    """What they add up to as the pieces of a batch do: 8 + 4 of 12."""
    if len(gradients) == 1:
        return gradients[0]
    half = 1 << (len(gradients) - 1).bit_length() - 1
    return pairwise(gradients[:half]) + pairwise(gradients[half:])


def expected(dtype: Any) -> list[Any]:
    """The parameters after a training that one process takes."""
    model = Model().to(dtype)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = fu.torch.AdamW(params, lr=0.01, weight_decay=0.1, clip_norm=0.5)
    for batch in INPUTS:
        found: list[list[Any]] = [[] for _ in params]
        for k, x in enumerate(batch):
            optimizer.zero_grad()
            loss_of(model(x.to(dtype), k)).backward()
            for p, of_param in zip(params, found, strict=True):
                of_param.append(torch.zeros_like(p) if p.grad is None else p.grad)
        for p, of_param in zip(params, found, strict=True):
            p.grad = None if p is model.never else pairwise(of_param) / COUNT
        optimizer.step()
    return [p.detach() for p in model.parameters()]


def whole(model: Any, ranks: Ranks) -> tuple[Any, Any]:
    return model, ranks.group


def replicated(model: Any, ranks: Ranks) -> tuple[Any, Any]:
    return DistributedDataParallel(model, process_group=ranks.group, find_unused_parameters=True), None


def cut(model: Any, ranks: Ranks) -> tuple[Any, Any]:
    """By FSDP2, all but what not every piece gives a gradient."""
    for layer in (model.first, model.last):
        fully_shard(layer, mesh=ranks.mesh)
    return model, ranks.group


def cut_and_replicated(model: Any, ranks: Ranks) -> tuple[Any, Any]:
    """By FSDP2 over the second axis of a grid; its rows are replicas."""
    for layer in (model.first, model.last):
        fully_shard(layer, mesh=ranks.grid)
    return model, None


def check(ranks: Ranks, make: Any, dtype: Any) -> None:
    if make is cut_and_replicated and ranks.grid is None:
        return
    model, group = make(Model().to(dtype), ranks)
    optimizer = fu.torch.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, clip_norm=0.5)
    pieces = fu.torch.Pieces(model, COUNT, group)
    assert len(pieces) == COUNT // ranks.count
    for batch in INPUTS:
        for k in pieces:
            loss_of(model(batch[k].to(dtype), k)).backward()
        optimizer.step()
    for p, q in zip(model.parameters(), expected(dtype), strict=True):
        assert bits(full(p)) == bits(q)


def check_all_cut(on_grid: bool, ranks: Ranks) -> None:
    """A module whose parameters are all cut up; also beside a loop, and after one that was left early."""
    mesh = ranks.grid if on_grid else ranks.mesh
    if mesh is None:
        return
    torch.manual_seed(5)
    layer, plain = (torch.nn.Linear(7, 33, dtype=torch.float64) for _ in range(2))
    plain.load_state_dict(layer.state_dict())
    fully_shard(layer, mesh=mesh)
    pieces = fu.torch.Pieces(layer, COUNT)
    for k in pieces:
        loss_of(layer(INPUTS[0, k])).backward()
        break
    layer.zero_grad()
    loss_of(layer(INPUTS[0, ranks.mesh.get_local_rank()])).backward()
    found = []
    for k in range(ranks.count):
        plain.zero_grad()
        loss_of(plain(INPUTS[0, k])).backward()
        found.append(plain.weight.grad)
    assert bits(full(layer.weight.grad)) == bits(pairwise(found) / ranks.count)


def check_narrow(ranks: Ranks) -> None:
    """Gradients that FSDP2 adds up in another type than the parameters'."""
    layer = torch.nn.Linear(7, 33)
    fully_shard(layer, mesh=ranks.mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float64))
    for k in fu.torch.Pieces(layer, COUNT):
        loss_of(layer(INPUTS[0, k].float())).backward()
    assert layer.weight.grad.dtype == torch.float32


def check_refused(ranks: Ranks) -> None:
    model = Model()
    if ranks.count > 1:
        with pytest.raises(ValueError, match="count: expected a multiple of the number of ranks"):
            fu.torch.Pieces(model, 13, ranks.group)
    for wrong in (0, 12.0, True):
        with pytest.raises(ValueError, match="count: expected"):
            fu.torch.Pieces(model, wrong, ranks.group)
    table = torch.nn.Embedding(9, 3, sparse=True)
    with pytest.raises(TypeError, match="expected dense gradients"):  # noqa: PT012
        for k in fu.torch.Pieces(table, COUNT, ranks.group):
            table(torch.tensor([k % 9])).sum().backward()
    if ranks.grid is not None:
        column = DeviceMesh("cpu", [[0], [1], [2], [3]], mesh_dim_names=("replica", "shard"))
        both = torch.nn.Linear(8, 8)
        both.weight = torch.nn.Parameter(distribute_tensor(both.weight, ranks.grid, [Shard(0), Shard(1)]))
        for model in (fully_shard(torch.nn.Linear(8, 8), mesh=column), both):
            with pytest.raises(ValueError, match="one mesh, of one axis or along the second of two"):
                fu.torch.Pieces(model, COUNT)


def checks() -> Iterator[Check]:
    for make in (whole, replicated, cut, cut_and_replicated):
        for dtype in (torch.float32, torch.float64):
            yield f"{make.__name__}, {dtype}", partial(check, make=make, dtype=dtype)
    for on_grid in (False, True):
        yield f"all cut, {on_grid}", partial(check_all_cut, on_grid)
    yield "another type", check_narrow
    yield "refused", check_refused
