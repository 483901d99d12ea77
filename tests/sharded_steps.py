"""Steps of DTensors beside steps of whole tensors, rule by rule: run by tests/test_sharded.py on several ranks."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, random_arrays
from ranks import Check, Ranks
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch_cases import CASES_HERE, LISTED, ours

import fastupdate as fu
from fastupdate.torch.listed import names_of
from fastupdate.torch.names import state_names
from fastupdate.torch.shards import part_of

# Uneven and empty shards among them, and one that is cut within blocks of 1024 elements.
SHAPES = [(5,), (3, 4), (1,), (7, 3, 5), (0, 7), (9, 700), (1030,), (4096,)]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip_value": {"clip_value": 0.3, "l1": 1e-3, "l1_mode": "proximal", "zero_grads": True},
    "averages": {"ema_decay": 0.9, "lookahead": (2, 0.5), "shadow": "bfloat16", "maximize": True},
    "masked": {"optimism": 0.3, "cautious": True},
}


def tensors(seed: int, dtype: Any) -> list[Any]:
    arrays = random_arrays(seed, [int(np.prod(shape)) for shape in SHAPES], dtype, spread=1.0)
    return [torch.from_numpy(a.reshape(s).copy()) for a, s in zip(arrays, SHAPES, strict=True)]


def share(tensor: Any, mesh: Any, placements: Any) -> Any:
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def full(tensor: Any) -> Any:
    """A whole tensor of its own."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


def bits(tensor: Any) -> bytes:
    return bytes(tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())


def same(found: Any, expected: Any, what: str) -> None:
    """What is here of a tensor is what would be here of the whole."""
    part = found
    if isinstance(found, DTensor):
        part, expected = found.to_local(), share(expected.detach(), found.device_mesh, found.placements).to_local()
    assert part.shape == expected.shape, what
    assert bits(part) == bits(expected), what


def every_parameter(optimizer: Any) -> list[Any]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def same_optimizers(shared: Any, whole: Any, params: list[Any], expected: list[Any]) -> None:
    """The parameters and states of both, byte for byte; states are shared as their parameters are, and factors of
    matrices in what is saved."""
    saved, places = shared.state_dict()["state"], {id(p): k for k, p in enumerate(every_parameter(shared))}
    for here, there in zip(shared.param_groups, whole.param_groups, strict=True):  # numbers of the list are there
        assert all(here[name] == there[name] for name in names_of(shared.rule_of(here)).values())
    rules = {id(p): shared.rule_of(group) for group in shared.param_groups for p in group["params"]}
    for k, (p, q) in enumerate(zip(params, expected, strict=True)):
        same(p, q, f"parameter {k}")
        rule = rules[id(p)]
        ranged = {key for name, key in state_names(rule).items() if rule.extents[name] != "element"}
        assert shared.state[p].keys() == whole.state[q].keys()
        for name, live in shared.state[p].items():
            state = saved[places[id(p)]][name] if name in rule.factors else live
            same(state, whole.state[q][name], f"{name} of parameter {k}")
            if isinstance(p, DTensor) and name not in {"step", *ranged}:  # numbers of ranges are there on every rank
                assert state.placements == p.placements
                assert state.device_mesh == p.device_mesh
                assert (state.shape, state.stride()) == (p.shape, p.stride())


def check_rule(case: Any, options: dict[str, Any], dtype: Any, ranks: Ranks) -> None:
    """Sharded, replicated and plain parameters, one of which gets its first gradient late."""
    placements = itertools.cycle([[Shard(0)], [Replicate()], None, [Shard(0)]])
    expected = [torch.nn.Parameter(t) for t in tensors(1, dtype)]
    kinds = [kind for kind, _ in zip(placements, expected, strict=False)]
    params = [
        torch.nn.Parameter(q.detach().clone() if kind is None else share(q.detach().clone(), ranks.mesh, kind))
        for q, kind in zip(expected, kinds, strict=True)
    ]
    shared, whole = ours(case, params, **options), ours(case, expected, **options)
    for step in range(3):
        for k, (g, p, q, kind) in enumerate(zip(tensors(10 + step, dtype), params, expected, kinds, strict=True)):
            if step or k != 1:
                q.grad = g
                p.grad = g.clone() if kind is None else share(g.clone(), ranks.mesh, kind)
        versions = [p._version for p in params]
        shared.step()
        whole.step()
        assert all(p._version > before for p, before in zip(params, versions, strict=True) if p.grad is not None)
    same_optimizers(shared, whole, params, expected)
    if options.get("zero_grads"):
        assert not any(p.grad.to_local().any() for p in params if isinstance(p, DTensor))


class Net(torch.nn.Module):
    """Layers of uneven and empty shards, a frozen one, and one that is not shared."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(7, 37)
        self.frozen = torch.nn.Linear(37, 5).requires_grad_(False)
        self.last = torch.nn.Linear(5, 1)
        self.scale = torch.nn.Parameter(torch.ones(3))

    def forward(self, x: Any) -> Any:
        return self.last(torch.tanh(self.frozen(torch.tanh(self.first(x))))) * self.scale.sum()


def make(mesh: Any, **policy: Any) -> Any:
    """A model that FSDP2 shards; every rank has the same one, and gives it the same data."""
    torch.manual_seed(3)
    model = Net()
    fully_shard(model.first, mesh=mesh, **policy)
    fully_shard(model, mesh=mesh, ignored_params={model.scale}, **policy)
    return model


def check_fsdp(policy: dict[str, Any], grid: bool, ranks: Ranks) -> None:
    """A model that FSDP2 shards, with its own gradients; on a grid it is replicated, too."""
    mesh = ranks.grid if grid else ranks.mesh
    if mesh is None:
        return
    model = make(mesh, **policy)
    params = list(model.parameters())
    expected = [torch.nn.Parameter(full(p.detach())) for p in params]
    options = {"weight_decay": 0.1, "ema_decay": 0.9}
    shared = fu.torch.AdamW(model.parameters(), lr=0.01, **options)
    whole = fu.torch.AdamW(expected, lr=0.01, **options)
    x = torch.randn(4, 7)
    for _ in range(3):
        shared.zero_grad()
        model(x).square().mean().backward()
        for p, q in zip(params, expected, strict=True):
            q.grad = None if p.grad is None else full(p.grad)
        shared.step()
        whole.step()
    assert [p.grad is None for p in params].count(True) == 2
    same_optimizers(shared, whole, [p for p in params if p.requires_grad], [q for q in expected if q.grad is not None])


def check_in_backward(ranks: Ranks) -> None:
    """Steps within backward have the bits of steps after it; what needs all gradients is refused."""
    models = [make(ranks.mesh), make(ranks.mesh)]
    optimizers = [fu.torch.AdamW([p for p in m.parameters() if p.requires_grad], ema_decay=0.9) for m in models]
    handle = fu.torch.in_backward(models[0], optimizers[0])
    x = torch.randn(4, 7)
    for _ in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            model(x).square().mean().backward()
            assert all(p.grad is None for p in model.parameters()) == (model is models[0])
            optimizer.step()
            optimizer.zero_grad()
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        assert bits(part_of(p)) == bits(part_of(q))
        for name, state in optimizers[0].state.get(p, {}).items():
            assert bits(part_of(state)) == bits(part_of(optimizers[1].state[q][name])), name
    assert len(optimizers[0].state) == 5
    handle.remove()
    clipped = fu.torch.AdamW(models[1].parameters(), clip_norm=1.0)
    with pytest.raises(ValueError, match=re.escape("[adamw] model: expected parameters that ranks do not share")):
        fu.torch.in_backward(models[1], clipped)


def check_axes(ranks: Ranks) -> None:
    """Tensors that are cut along two axes, or along one that is not the first."""
    if ranks.grid is None:
        return
    kinds = [[Shard(0), Shard(1)], [Shard(1), Shard(0)], [Shard(0), Shard(0)], [Replicate(), Shard(1)]]
    expected = [torch.nn.Parameter(torch.randn(7, 9, generator=torch.Generator().manual_seed(k))) for k in range(4)]
    params = [
        torch.nn.Parameter(share(q.detach().clone(), ranks.grid, kind)) for q, kind in zip(expected, kinds, strict=True)
    ]
    shared, whole = fu.torch.AdamW(params, ema_decay=0.9), fu.torch.AdamW(expected, ema_decay=0.9)
    for step in range(3):
        for p, q in zip(params, expected, strict=True):
            q.grad = q.detach() * (step + 1)
            p.grad = share(q.grad, ranks.grid, p.placements)
        shared.step()
        whole.step()
    same_optimizers(shared, whole, params, expected)


def check_refusals(ranks: Ranks) -> None:
    """What does not fit is named, and nothing has moved."""
    p = torch.nn.Parameter(share(torch.ones(8, 4), ranks.mesh, [Shard(0)]))
    for cls, options, grad, words in [
        (fu.torch.AdamW, {}, share(torch.ones(8, 4), ranks.mesh, [Replicate()]), "[adamw] grads: expected a DTensor"),
    ]:
        optimizer = cls([p], **options)
        p.grad = grad
        with pytest.raises((TypeError, ValueError), match=re.escape(words)):
            optimizer.step()
        assert not optimizer.state
        assert p._local_tensor.grad is None
        same(p, torch.ones(8, 4), "p")


def check_data_parallel(ranks: Ranks) -> None:
    """DDP: all ranks have the same bits, which are those of its gradients."""
    torch.manual_seed(3)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(7, 5), process_group=ranks.group)
    expected = [torch.nn.Parameter(p.detach().clone()) for p in model.parameters()]
    ddp = fu.torch.AdamW(model.parameters(), lr=0.01, clip_norm=0.1, monitor=True)
    whole = fu.torch.AdamW(expected, lr=0.01, clip_norm=0.1, monitor=True)
    x = torch.randn(4, 7) + ranks.mesh.get_local_rank()
    for _ in range(3):
        ddp.zero_grad()
        model(x).square().mean().backward()
        for p, q in zip(model.parameters(), expected, strict=True):
            q.grad = p.grad.clone()
        ddp.step()
        whole.step()
    same_optimizers(ddp, whole, list(model.parameters()), expected)
    for p in model.parameters():
        gathered = [torch.empty_like(p) for _ in range(ranks.count)]
        torch.distributed.all_gather(gathered, p.detach().contiguous(), ranks.group)
        for other in gathered:
            same(other, p, "the parameter on another rank")


def check_partition(options: dict[str, Any], ranks: Ranks) -> None:
    """Two rules in one step, of shared and of whole tensors."""
    expected = [torch.nn.Parameter(t) for t in tensors(1, np.float32)]
    kinds = [kind for kind, _ in zip(itertools.cycle([[Shard(0)], [Replicate()], None]), expected, strict=False)]
    params = [
        torch.nn.Parameter(q.detach().clone() if kind is None else share(q.detach().clone(), ranks.mesh, kind))
        for q, kind in zip(expected, kinds, strict=True)
    ]
    shared, whole = (
        fu.torch.Partition(
            [
                {"params": part[::2], "rule": fu.AdamW.with_(lr=0.01, weight_decay=0.3)},
                {"params": part[1::2], "rule": fu.Prodigy.with_(d0=1e-2, weight_decay=0.1)},
            ],
            **options,
        )
        for part in (params, expected)
    )
    for step in range(3):
        for g, p, q, kind in zip(tensors(10 + step, np.float32), params, expected, kinds, strict=True):
            q.grad = g
            p.grad = g.clone() if kind is None else share(g.clone(), ranks.mesh, kind)
        shared.step()
        whole.step()
    for k, (p, q) in enumerate(zip(params, expected, strict=True)):
        same(p, q, f"parameter {k}")
    assert shared.param_groups[1]["d"] == whole.param_groups[1]["d"]
    assert shared.report.grad_norm == whole.report.grad_norm


def checks() -> Iterator[Check]:
    """Many rules as they are, and some rules with every option."""
    yield "within backward", check_in_backward
    yield "two axes", check_axes
    yield "FSDP2", partial(check_fsdp, {}, False)
    yield "FSDP2 and replicas", partial(check_fsdp, {}, True)
    yield "FSDP2, offloaded", partial(check_fsdp, {"offload_policy": CPUOffloadPolicy(pin_memory=False)}, False)
    yield "refusals", check_refusals
    yield "DDP", check_data_parallel
    yield "partition", partial(check_partition, {})
    yield "partition, clipped", partial(check_partition, {"clip_norm": 0.5})
    for case in (*CASES_HERE, *LISTED):
        yield f"{case}", partial(check_rule, case, {}, np.float32)
    for case, (name, options) in itertools.product(CASES, OPTIONS.items()):
        yield f"{case} {name} in float64", partial(check_rule, case, options, np.float64)
