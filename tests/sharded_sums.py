"""Steps that depend on sums of all ranks' gradients, beside steps of whole tensors; see sharded_steps.py."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from ranks import Check, Ranks
from sharded_steps import full, make, same, same_optimizers, share, tensors
from torch.distributed.tensor import DTensor, Replicate, Shard

import fastupdate as fu

OPTIONS: dict[str, dict[str, Any]] = {
    "clip_norm": {"clip_norm": 0.7},
    "clip_tensor_norm": {"clip_tensor_norm": 0.3},
    "skip": {"nonfinite": "skip", "clip_norm": 0.7},
    "outliers": {"outliers": (3.0, 20)},
    "clip_unit_norm": {"clip_unit_norm": 0.05},
    "clip_unit_norm and skip": {"clip_unit_norm": 0.05, "nonfinite": "skip"},
}
# More blocks than one, which ranks cut within; and cuts by which a tensor is no range of elements.
LONG = [(37, 1024), (999, 41), (3, 5000), (20000,), (64, 1024), (10, 6)]


def long_tensors(seed: int, dtype: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in LONG]


def pair(make_tensors: Any, dtype: Any, ranks: Ranks, kinds: list[Any]) -> tuple[list[Any], list[Any]]:
    """Parameters that are shared, replicated or plain, and the same ones whole."""
    expected = [torch.nn.Parameter(t) for t in make_tensors(1, dtype)]
    params = [
        torch.nn.Parameter(q.detach().clone() if kind is None else share(q.detach().clone(), ranks.mesh, kind))
        for q, kind in zip(expected, kinds, strict=False)
    ]
    return params, expected


def hand_over(gradients: list[Any], params: list[Any], expected: list[Any]) -> None:
    for g, p, q in zip(gradients, params, expected, strict=True):
        p.grad_dtype = q.grad_dtype = g.dtype
        q.grad = g
        p.grad = share(g.clone(), p.device_mesh, p.placements) if isinstance(p, DTensor) else g.clone()


def same_reports(found: Any, expected: Any) -> None:
    for name in ("step", "grad_norm", "clip_factor", "nonfinite", "skipped"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a == b or (math.isnan(a) and math.isnan(b)), f"{name}: {a} and {b}"


def check_options(make_tensors: Any, options: dict[str, Any], dtype: Any, kind: Any, ranks: Ranks) -> None:
    """Norms, clip factors and decisions are those of whole tensors, to the bit."""
    kinds = [[Shard(0)], [Shard(0)], [Shard(0)], [Shard(0)], [Replicate()], [Shard(1)], None, [Shard(0)]]
    params, expected = pair(make_tensors, dtype, ranks, kinds)
    shared = fu.torch.AdamW(params, weight_decay=0.1, **options)
    whole = fu.torch.AdamW(expected, weight_decay=0.1, **options)
    for step in range(4):
        gradients = [g.to(kind) for g in make_tensors(10 + step, dtype)]
        if options.get("nonfinite") and step in (0, 2):
            gradients[3][-1] = math.nan  # the last rank has it
        hand_over(gradients, params, expected)
        shared.step()
        whole.step()
        same_reports(shared.report, whole.report)
    same_optimizers(shared, whole, params, expected)


def check_large(ranks: Ranks) -> None:
    """Gradients whose squares float64 does not hold are clipped by their norm, by all ranks alike."""
    for options in ({"clip_norm": 0.7}, {"clip_tensor_norm": 0.3}, {"clip_unit_norm": 0.05}):
        params, expected = pair(long_tensors, torch.float64, ranks, [*[[Shard(0)]] * (len(LONG) - 1), [Shard(1)]])
        shared, whole = (fu.torch.AdamW(each, **options) for each in (params, expected))
        for step in range(2):
            gradients = [g * 1e160 if k % 2 else g for k, g in enumerate(long_tensors(5 + step, torch.float64))]
            hand_over(gradients, params, expected)
            shared.step()
            whole.step()
            same_reports(shared.report, whole.report)
            assert "clip_unit_norm" in options or math.isfinite(shared.report.grad_norm)
        same_optimizers(shared, whole, params, expected)


def check_raise(ranks: Ranks) -> None:
    """All ranks raise the same error."""
    params, expected = pair(long_tensors, torch.float32, ranks, [[Shard(0)]] * len(LONG))
    optimizer = fu.torch.AdamW(params, nonfinite="raise")
    gradients = long_tensors(2, torch.float32)
    gradients[1][-1, -1] = math.inf
    hand_over(gradients, params, expected)
    with pytest.raises(FloatingPointError, match=re.escape("grads[0][1]: expected finite values, received 1")):
        optimizer.step()
    assert not optimizer.state


def check_fsdp(ranks: Ranks) -> None:
    """A model that FSDP2 shards, trained with a scaled loss and clipped."""
    model = make(ranks.mesh)
    params = [p for p in model.parameters() if p.requires_grad]
    expected = [torch.nn.Parameter(full(p.detach())) for p in params]
    shared, whole = (fu.torch.AdamW(each, clip_norm=0.05, nonfinite="skip") for each in (params, expected))
    x = torch.randn(4, 7)
    for _ in range(3):
        shared.zero_grad()
        model(x).square().mean().backward()
        for p, q in zip(params, expected, strict=True):
            q.grad = full(p.grad)
        shared.step()
        whole.step()
        same_reports(shared.report, whole.report)
        assert shared.report.clip_factor < 1
    same_optimizers(shared, whole, params, expected)


def check_grid(options: dict[str, Any], ranks: Ranks) -> None:
    """Tensors that are replicated along one axis of a grid of ranks, or cut along both."""
    if ranks.grid is None:
        return
    kinds = [[Replicate(), Shard(0)], [Shard(0), Replicate()], [Shard(0), Shard(1)], [Shard(0), Shard(0)]]
    expected = [torch.nn.Parameter(t) for t in long_tensors(1, torch.float32)]
    params = [
        torch.nn.Parameter(share(q.detach().clone(), ranks.grid, kind))
        for q, kind in zip(expected, itertools.chain(kinds, kinds[:2]), strict=True)
    ]
    shared, whole = (fu.torch.AdamW(each, **options) for each in (params, expected))
    for step in range(2):
        hand_over(long_tensors(5 + step, torch.float32), params, expected)
        shared.step()
        whole.step()
        same_reports(shared.report, whole.report)
    same_optimizers(shared, whole, params, expected)


def check_faults(ranks: Ranks) -> None:
    """What differs between ranks is named on all of them, and nothing moves."""
    if ranks.count == 1:
        return
    last = ranks.mesh.get_local_rank() == ranks.count - 1
    for differing, words in [
        ({"options": {"clip_norm": 2.0}}, "clip_norm: expected the same on all ranks"),
        ({"rule": fu.torch.SGD}, "rule: expected the same on all ranks"),
        ({"without": 2}, "params[0][2]: expected the same on all ranks, one with a gradient"),
        ({"steps": 1}, "after 0 steps as on the first"),
        ({"no_gradient": 1}, "grads[0][1]: expected a gradient on every rank, or on none"),
    ]:
        found = differing if last else {}
        params = [torch.nn.Parameter(share(torch.ones(9, 4), ranks.mesh, [Shard(0)])) for _ in range(3)]
        optimizer = found.get("rule", fu.torch.AdamW)(params, lr=0.1, **{"clip_norm": 1.0, **found.get("options", {})})
        if "no_gradient" in differing:
            hand_over([torch.ones(9, 4)] * 3, params, [torch.nn.Parameter(torch.ones(9, 4)) for _ in params])
            optimizer.step()
        before = [p.detach().clone() for p in params]
        for k, p in enumerate(params):
            p.grad = None if k in (found.get("without"), found.get("no_gradient")) else torch.ones_like(p)
        if "steps" in found:
            for p in params:
                optimizer.state[p]["step"] = torch.tensor(1.0)
        with pytest.raises(ValueError, match=re.escape(words)):
            optimizer.step()
        for p, q in zip(params, before, strict=True):
            same(p, full(q), differing)


ONE_RANK: list[tuple[Any, dict[str, Any]]] = [
    (fu.torch.AdamW, {"clip_norm": 1.0}),
    (fu.torch.AdamW, {"monitor": True}),
    (fu.torch.Lamb, {}),
    (fu.torch.Lamb, {"clip_norm": 1.0}),
    (fu.torch.AdamW, {"clip_unit_norm": 1.0}),
    (fu.torch.Lamb, {"clip_unit_norm": 1.0}),
    (fu.torch.NorMuon, {}),
    (fu.torch.SOAP, {"clip_unit_norm": 1.0}),
]
CHANGES: dict[str, tuple[Any, str]] = {  # what the last rank has otherwise, and what all are told of
    "misses one": (
        lambda p: p[1].__setattr__("grad", None),
        "grads[0][1]: expected a gradient on every rank, or on none",
    ),
    "has one more": (lambda p: p[2].__setattr__("grad", torch.ones_like(p[2])), "grads[0][2]: expected a gradient on"),
    "has none": (lambda p: [q.__setattr__("grad", None) for q in p], "grads[0][0]: expected a gradient on every rank"),
    "has a wrong one": (
        lambda p: p[1].__setattr__("grad", share(torch.ones(9, 4), p[1].device_mesh, [Replicate()])),
        "grads: expected",
    ),
}


def check_one_rank(cls: Any, options: dict[str, Any], ranks: Ranks) -> None:
    """A gradient that has come or gone on one rank, or is wrong there, is an error on all; nothing moves, and the next
    good step is that of whole tensors, which a parameter joins that has a gradient on all ranks."""
    if ranks.count == 1:
        return
    last = ranks.mesh.get_local_rank() == ranks.count - 1
    shapes = [(9,) if cls.rule.matrix is None else (9, 4), (9, 4), (9, 4)]
    expected = [torch.nn.Parameter(torch.full(shape, float(k + 1))) for k, shape in enumerate(shapes)]
    params = [torch.nn.Parameter(share(q.detach().clone(), ranks.mesh, [Shard(0)])) for q in expected]
    shared, whole = (cls(each, lr=0.1, **options) for each in (params, expected))

    def both(count: int, value: float) -> None:
        hand_over([torch.full(shape, value) for shape in shapes[:count]], params[:count], expected[:count])

    both(2, 0.5)
    shared.step()
    whole.step()
    for change, words in CHANGES.values():
        both(2, 2.0)
        if last:
            change(params)
        with pytest.raises((TypeError, ValueError), match=re.escape(words)):
            shared.step()
        params[2].grad = None
        same_optimizers(shared, whole, params, expected)
    for count in (2, 3, 3, 2):
        params[2].grad = expected[2].grad = None
        both(count, 0.25)
        shared.step()
        whole.step()
    same_optimizers(shared, whole, params, expected)


def check_all_missing(ranks: Ranks) -> None:
    """A parameter without a gradient on any rank rests."""
    params, expected = pair(long_tensors, torch.float32, ranks, [[Shard(0)]] * len(LONG))
    shared, whole = (fu.torch.AdamW(each, clip_norm=0.7) for each in (params, expected))
    for step in range(4):
        hand_over(long_tensors(5 + step, torch.float32), params, expected)
        if step % 2:
            params[1].grad = expected[1].grad = None
        shared.step()
        whole.step()
        same_reports(shared.report, whole.report)
    same_optimizers(shared, whole, params, expected)


def check_messages(ranks: Ranks) -> None:
    """What is told: a number, and 16 bytes of each node or cut block; eight bytes of each element of a cut block."""
    cut = ranks.count > 1
    for p, elements, rows in [  # a third of 64 rows of 3 blocks is more than one node
        (share(torch.ones(64, 1024 * ranks.count), ranks.mesh, [Shard(0)]), 0, {1: 1, 2: 1, 3: 6, 4: 1}[ranks.count]),
        (share(torch.ones(12 * ranks.count), ranks.mesh, [Shard(0)]), 12 * cut, 1),
    ]:
        optimizer = fu.torch.AdamW([torch.nn.Parameter(p)], clip_norm=1.0)
        [parameter] = optimizer.param_groups[0]["params"]
        parameter.grad = p.clone()
        optimizer.step()
        [exchange] = optimizer._run.meeting.sums.exchanges
        handed_over, told = exchange.bytes
        assert handed_over == 8 * elements
        assert 8 + 16 <= told <= 8 + 16 * rows


def checks() -> Iterator[Check]:
    """Every option that reads gradients, with types and layouts."""
    yield "large", check_large
    yield "faults", check_faults
    yield "missing", check_all_missing
    for cls, options in ONE_RANK:
        yield f"one rank's gradients, {cls.__name__} {options}", partial(check_one_rank, cls, options)
    for name in ("clip_norm", "clip_unit_norm"):
        yield f"grid, {name}", partial(check_grid, OPTIONS[name])
    for (name, options), dtype in itertools.product(OPTIONS.items(), (np.float32, np.float64)):
        yield f"{name} {dtype.__name__}", partial(check_options, tensors, options, dtype, as_torch(dtype))
    for (name, options), dtype in itertools.product(OPTIONS.items(), (torch.float32, torch.float64)):
        yield f"{name} of long tensors, {dtype}", partial(check_options, long_tensors, options, dtype, dtype)
    narrow = partial(check_options, long_tensors, OPTIONS["skip"], torch.float32, torch.bfloat16)
    yield "gradients in bfloat16", narrow
    yield "raise", check_raise
    yield "FSDP2", check_fsdp
    yield "messages", check_messages


def as_torch(dtype: Any) -> Any:
    return getattr(torch, np.dtype(dtype).name)
