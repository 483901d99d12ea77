"""Steps that depend on sums over whole tensors, of which each rank has a part, beside steps of whole ones: rules that
step by sums of tensors, rows and columns, and options that do; see sharded_steps.py."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from cases import EVERY_PHASED_CASE, Case
from ranks import Check, Ranks
from sharded_steps import same_optimizers, share
from sharded_sums import hand_over, pair
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard
from torch_cases import ours

import fastupdate as fu
from fastupdate.sharded.ranges import nodes
from fastupdate.torch.shards import part_of

# Empty parts, cuts within blocks of 1024 elements and within chunks of 32 rows, matrices among more axes, vectors.
SHAPES = [(5,), (3, 4), (70, 33), (0, 7), (5, 40, 3), (9, 700), (1030,), (4100,), (6, 10)]
KINDS = [[Shard(0)]] * 7 + [[Replicate()], None]
WIDEST = 90  # columns of matrices that are multiplied: eigenvectors of larger products take seconds
OPTIONS: dict[str, dict[str, Any]] = {
    "monitor": {"monitor": True, "zero_grads": True, "shadow": "bfloat16"},
    "centralize": {"centralize": True, "clip_value": 0.8, "ema_decay": 0.9},
    "optimism": {"optimism": 0.3, "optimism_norm": 2.0},
    "mean": {"cautious": "mean", "decay": "cautious", "weight_decay": 0.1},
    "hyperball": {"trust_ratio": True, "keep_norm": True},
    "units": {"clip_unit_norm": 0.05, "monitor": True, "centralize": True},
    "units and more": {"clip_unit_norm": 0.05, "nonfinite": "skip", "trust_ratio": True, "zero_grads": True},
    "count": {"cautious": "count", "decay": "coupled", "monitor": True, "clip_norm": 0.7},
}
BY_RULE = {case.rule: case for case in EVERY_PHASED_CASE}
PHASED = [
    case
    for case in BY_RULE.values()
    if (rule := fu.rules.get(case.rule).rule).matrix is None and "list" not in rule.extents.values()
]
MATRICES = [case for case in BY_RULE.values() if fu.rules.get(case.rule).rule.matrix]
KEEPING = [case for case in EVERY_PHASED_CASE if fu.rules.get(case.rule).rule.factors]
ADAMW = Case("adamw", "plain", {"lr": 0.01, "weight_decay": 0.1})


def tensors(seed: int, dtype: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]


def matrices(seed: int, dtype: Any) -> list[Any]:
    return [t[:, :WIDEST].contiguous() for t in tensors(seed, dtype) if t.dim() == 2]


def same_reports(found: Any, expected: Any) -> None:
    assert (found.step, found.grad_norm, found.clip_factor) == (expected.step, expected.grad_norm, expected.clip_factor)
    if expected.tensors is not None:
        for name in found.tensors.dtype.names[1:]:
            a, b = found.tensors[name], expected.tensors[name]
            assert a.tobytes() == b.tobytes(), f"{name}: {a} and {b}"


def check(
    case: Case,
    options: dict[str, Any],
    dtype: Any,
    narrow: Any,
    ranks: Ranks,
    tensors: Any = tensors,
    steps: int = 3,
) -> None:
    """Parameters, states and statistics are those of whole tensors, to the bit."""
    params, expected = pair(tensors, dtype, ranks, KINDS[-len(tensors(1, dtype)) :])
    shared, whole = ours(case, params, **options), ours(case, expected, **options)
    for step in range(steps):
        gradients = [g.to(narrow) for g in tensors(10 + step, dtype)]
        hand_over(gradients, params, expected)
        shared.step()
        whole.step()
        same_reports(shared.report, whole.report)
    same_optimizers(shared, whole, params, expected)


def check_grid(case: Case, options: dict[str, Any], ranks: Ranks, tensors: Any = tensors) -> None:
    """The same on a grid of ranks, along one axis of which parameters are replicated."""
    if ranks.grid is None:
        return
    kinds = itertools.cycle([[Replicate(), Shard(0)], [Shard(0), Replicate()], [Replicate(), Replicate()]])
    expected = [torch.nn.Parameter(t) for t in tensors(1, torch.float32)]
    params = [
        torch.nn.Parameter(share(q.detach().clone(), ranks.grid, kind))
        for q, kind in zip(expected, kinds, strict=False)
    ]
    shared, whole = ours(case, params, **options), ours(case, expected, **options)
    for step in range(2):
        hand_over(tensors(5 + step, torch.float32), params, expected)
        shared.step()
        whole.step()
    same_optimizers(shared, whole, params, expected)


# What ranks have of these is no range of elements, or is one that does not lie so, or has another place than its rank.
BOXED: list[tuple[tuple[int, ...], list[Any]]] = [
    ((70, 33), [Shard(1)]),
    ((5, 40, 3), [Shard(1)]),
    ((2, 3, 50), [Shard(2)]),
    ((9, 700), [Shard(0)]),
    ((4, 2100), [Shard(1)]),
    ((3, 2), [Shard(1)]),
]
ON_GRID: list[tuple[tuple[int, ...], list[Any]]] = [
    ((40, 33), [Shard(0), Shard(1)]),
    ((9, 700), [Shard(1), Shard(0)]),
    ((3, 1000), [Replicate(), Shard(1)]),
    ((7, 301), [Shard(0), Shard(0)]),
    ((8, 300), [_StridedShard(0, split_factor=2), Shard(0)]),
    ((64, 65), [Shard(1), Shard(1)]),
    ((2052,), [_StridedShard(0, split_factor=2), Shard(0)]),
]


def boxed(ranks: Ranks, seed: int, dtype: Any, matrices: bool) -> list[tuple[Any, Any, list[Any]]]:
    """Whole tensors, their meshes and placements. matrices: those alone, to be multiplied"""
    generator = torch.Generator().manual_seed(seed)
    kinds = [(ranks.mesh, *each) for each in BOXED]
    kinds += [(ranks.grid, *each) for each in ON_GRID if ranks.grid is not None]
    if matrices:
        kinds = [(mesh, (m, min(n[0], WIDEST)), placements) for mesh, (m, *n), placements in kinds if len(n) == 1]
    return [
        (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype), mesh, placements)
        for mesh, shape, placements in kinds
    ]


def turned(shared: Any) -> Any:
    """The same DTensor, what is here of which lies in memory the other way round."""
    part = shared.to_local()
    part = part.t().contiguous().t()
    return DTensor.from_local(
        part, shared.device_mesh, shared.placements, run_check=False, shape=shared.shape, stride=shared.stride()
    )


def boxed_pair(ranks: Ranks, dtype: Any, matrices: bool) -> tuple[list[Any], list[Any]]:
    """Parameters, some of which lie otherwise in memory, and whole ones."""
    whole_tensors = boxed(ranks, 1, dtype, matrices)
    params = []
    for k, (t, mesh, placements) in enumerate(whole_tensors):
        shared_tensor = share(t.detach().clone(), mesh, placements)
        params.append(torch.nn.Parameter(turned(shared_tensor) if t.dim() == 2 and k % 3 == 0 else shared_tensor))
    return params, [torch.nn.Parameter(t) for t, _, _ in whole_tensors]


def check_boxes(case: Case, options: dict[str, Any], dtype: Any, ranks: Ranks, matrices: bool = False) -> None:
    """The same where tensors are cut along another axis than the first, or along two, or lie otherwise in memory."""
    params, expected = boxed_pair(ranks, dtype, matrices)
    shared, whole = ours(case, params, **options), ours(case, expected, **options)
    for step in range(3):
        hand_over([t for t, _, _ in boxed(ranks, 10 + step, dtype, matrices)], params, expected)
        shared.step()
        whole.step()
        same_reports(shared.report, whole.report)
    same_optimizers(shared, whole, params, expected)


def check_loaded(case: Case, ranks: Ranks) -> None:
    """From factors of such matrices, as they are saved, another optimizer goes on."""
    params, expected = boxed_pair(ranks, torch.float32, True)
    shared, whole = ours(case, params), ours(case, expected)
    for step in range(6):
        if step == 3:
            saved, shared = shared.state_dict(), ours(case, params)
            shared.load_state_dict(saved)
        hand_over([t for t, _, _ in boxed(ranks, 10 + step, torch.float32, True)], params, expected)
        shared.step()
        whole.step()
    same_optimizers(shared, whole, params, expected)


def check_moved(case: Case, options: dict[str, Any], ranks: Ranks) -> None:
    """The same where what is here of parameters is given other memory between steps, by one rank or by all."""
    params, expected = pair(tensors, torch.float32, ranks, KINDS)
    shared, whole = ours(case, params, **options), ours(case, expected, **options)
    for step in range(4):
        if step == 2 or (step == 1 and torch.distributed.get_rank() == 0):
            for p in params:
                part = part_of(p)
                part.data = part.data.clone()
        hand_over(tensors(10 + step, torch.float32), params, expected)
        shared.step()
        whole.step()
    same_optimizers(shared, whole, params, expected)


def check_factors(case: Case, ranks: Ranks) -> None:
    """Each rank has all of the factors of its own matrices and nothing of the others', also where a group joins, of the
    largest."""
    params, expected = ([make(p) for p in matrices(1, torch.float32) for _ in "ab"] for make in (
        lambda t: torch.nn.Parameter(share(t.clone(), ranks.mesh, [Shard(0)])), lambda t: torch.nn.Parameter(t.clone())
    ))  # fmt: skip
    shared, whole = (ours(case, [*each[:2], *each[4:]]) for each in (params, expected))
    for step in range(6):
        if step == 3:
            shared.add_param_group({"params": params[2:4]})
            whole.add_param_group({"params": expected[2:4]})
        hand_over([g for g in matrices(5 + step, torch.float32) for _ in "ab"], params, expected)
        shared.step()
        whole.step()
    keys = [*whole.rule.factors]
    sizes = [sum(optimizer.state[p][key].numel() for p in each for key in keys) for optimizer, each in (
        (shared, params), (whole, expected)
    )]  # fmt: skip
    everywhere = torch.tensor(sizes[:1])
    torch.distributed.all_reduce(everywhere, group=ranks.group)
    assert everywhere.item() == sizes[1]
    assert ranks.count == 1 or sizes[0] < sizes[1]
    same_optimizers(shared, whole, params, expected)


def check_no_factors(case: Case, ranks: Ranks) -> None:
    """A matrix whose products have no eigenvectors is an error on all ranks, and nothing has changed."""
    params, expected = pair(matrices, torch.float32, ranks, [[Shard(0)]] * 5)
    shared, whole = ours(case, params), ours(case, expected)
    gradients = matrices(4, torch.float32)
    gradients[0][:] = float("nan")
    hand_over(gradients, params, expected)
    with pytest.raises(FloatingPointError, match=re.escape("[soap] grads")):
        shared.step()
    assert not shared.state
    for step in range(4):
        hand_over(matrices(5 + step, torch.float32), params, expected)
        shared.step()
        whole.step()
    same_optimizers(shared, whole, params, expected)


def check_messages(ranks: Ranks) -> None:
    """LAMB has two sums, of 8 bytes each for each node of the blocks that begin here; those of monitoring, which are
    ten, are 64 bytes. Others are handed what is here of the block that begins there: gradient, weight and two states;
    and 8 bytes each."""
    rows = -(-20 // ranks.count)  # of 700 elements
    for case, options, words in [(BY_RULE["lamb"], {}, 2), (ADAMW, {"monitor": True}, 8)]:
        p = torch.nn.Parameter(share(torch.ones(20, 700), ranks.mesh, [Shard(0)]))
        optimizer = ours(case, [p], **options)
        p.grad = torch.ones_like(p)
        optimizer.step()
        together = optimizer._run.meeting.together
        [telling] = [*(each for of_phase in together._tellings.values() for each in of_phase), *together._watched]
        [borrowed] = together._messages
        begin = min(rows * torch.distributed.get_rank(), 20) * 700
        end = min(begin + rows * 700, 14000)
        cells = -(-begin // 1024), -(-end // 1024)
        assert telling.bytes == 8 * words * len(nodes(*cells, 14))
        handed_over = min(cells[0] * 1024, end) - begin
        assert borrowed.bytes == 8 * ranks.count + 4 * 4 * handed_over


def checks() -> Iterator[Check]:
    """Every rule, and every option."""
    f32, f64, bf16 = torch.float32, torch.float64, torch.bfloat16
    for case in PHASED:
        yield f"{case}", partial(check, case, {}, f32, f32)
    for case in MATRICES:
        yield f"{case}", partial(check, case, {}, f32, f32, tensors=matrices)
    for case in KEEPING:
        yield f"{case}, {case.kwargs}", partial(check, case, {}, f64, f64, tensors=matrices, steps=8)
        yield f"factors of {case}", partial(check_factors, case)
    yield "no factors", partial(check_no_factors, KEEPING[0])
    yield "a grid of factors", partial(check_grid, KEEPING[0], {}, tensors=matrices)
    yield "units of rows", partial(check, BY_RULE["adamp"], OPTIONS["units"], f64, f64)
    yield "units of matrices", partial(check, BY_RULE["normuon"], OPTIONS["units"], f32, f32, tensors=matrices)
    yield "a grid of units", partial(check_grid, BY_RULE["adafactor"], OPTIONS["units"])
    yield "NorMuon with every sum", partial(check, BY_RULE["normuon"], OPTIONS["count"], f64, f64, tensors=matrices)
    for name, options in OPTIONS.items():
        yield f"{name} with AdamW", partial(check, ADAMW, options, f32, f32)
        yield f"{name} with LAMB in float64", partial(check, BY_RULE["lamb"], options, f64, f64)
    yield "gradients in bfloat16", partial(check, BY_RULE["adafactor"], {"monitor": True}, f32, bf16)
    for case in PHASED:
        yield f"boxes, {case}", partial(check_boxes, case, {}, f32)
    for case in MATRICES:
        yield f"boxes, {case}", partial(check_boxes, case, {}, f32, matrices=True)
    for case in KEEPING:
        yield f"boxes, loaded {case}, {case.kwargs}", partial(check_loaded, case)
    yield "boxes, units of matrices", partial(check_boxes, BY_RULE["normuon"], OPTIONS["units"], f32, matrices=True)
    for name, options in OPTIONS.items():
        yield f"boxes, {name} with AdamW", partial(check_boxes, ADAMW, options, f64)
        yield f"boxes, {name} with Adafactor", partial(check_boxes, BY_RULE["adafactor"], options, f32)
    yield "moved, with LAMB", partial(check_moved, BY_RULE["lamb"], {})
    yield "moved, with clip_norm", partial(check_moved, ADAMW, {"clip_norm": 0.7})
    yield "messages", check_messages
    yield "a grid", partial(check_grid, BY_RULE["adafactor"], {"monitor": True})
    yield "a grid of matrices", partial(check_grid, BY_RULE["normuon"], {}, tensors=matrices)
