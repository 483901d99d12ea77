"""The messages of a step, and their bytes, are those that bench/told.py works out from shapes; see sharded_steps.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from ranks import Check, Ranks
from sharded_steps import share
from torch import distributed
from torch.distributed.tensor import Shard

import fastupdate as fu

sys.path.append(str(Path(__file__).parents[1]))  # `bench` is no part of the package

from bench.ranks import counted
from bench.told import KINDS, NORMS, Kind, told

MOST = 64  # bytes of a node
# Cut between blocks, within them and within chunks of 32 rows; of more blocks than a power of two; empty parts.
SHAPES = [(64, 3072), (9, 700), (1030,), (2,), (77, 33), (5, 40, 3)]
OPTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "AdamW, clip_norm": (fu.torch.AdamW, {"clip_norm": 1.0}),
    "Lamb": (fu.torch.Lamb, {}),
    "Adafactor": (fu.torch.Adafactor, {}),
    "AdamW, monitor": (fu.torch.AdamW, {"monitor": True}),
}


def sent(kind: Kind, shapes: list[tuple[int, ...]], placement: Any, ranks: Ranks) -> list[tuple[int, int]]:
    """Messages and bytes of each rank, in a step after the first one."""
    params = [torch.nn.Parameter(share(torch.ones(shape), ranks.mesh, [placement])) for shape in shapes]
    cls, options = OPTIONS[kind.name]
    optimizer = cls(params, lr=0.01, **options)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    found: list[Any] = [None] * ranks.count
    distributed.all_gather_object(found, counted(optimizer.step), group=ranks.group)
    return found


def check_rows(kind: Kind, ranks: Ranks) -> None:
    """Tensors whose rows ranks have; a node is at most 64 bytes, and a row or column has 8 for each sum."""
    for shapes in (SHAPES, SHAPES[:1], SHAPES[-1:]):
        expected = told(kind, shapes, ranks.count)
        found = sent(kind, shapes, Shard(0), ranks)
        assert {messages for messages, _ in found} == {expected.messages}, (shapes, found, expected)
        assert max(size for _, size in found) == expected.lent + expected.told, (shapes, found, expected)
    assert all(8 * phase.words <= MOST for phase in kind.phases)


def check_boxes(kind: Kind, ranks: Ranks) -> None:
    """Of a tensor that is cut along another axis a rank is lent what others have, and tells as one that has all."""
    shape = (3, 8, 20 * ranks.count)
    whole = told(kind, [shape], 1)
    found = sent(kind, [shape], Shard(2), ranks)
    if ranks.count > 1:
        opening = 0 if kind is NORMS else 8 * ranks.count
        element = 4 if kind is NORMS else kind.lent
        lent = [size - opening - whole.told for _, size in found]
        assert sorted(lent) == [0] + [element * prod(shape) // ranks.count] * (ranks.count - 1)
        assert {messages for messages, _ in found} == {1 + len(kind.phases)}


def checks() -> Iterator[Check]:
    """Norms, rules that sum over tensors, rows and columns, and statistics."""
    for kind in KINDS:
        yield kind.name, partial(check_rows, kind)
        yield f"boxes, {kind.name}", partial(check_boxes, kind)
