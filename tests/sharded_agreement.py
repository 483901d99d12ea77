"""Ranks that step without a message: what differs between them is named, at the first step and where gradients come and
go; see sharded_steps.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import torch
from ranks import LIMIT, Check, Ranks
from sharded_steps import bits, share
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard

import fastupdate as fu
from fastupdate.torch import agreement
from fastupdate.torch.shards import part_of

OPTIONS: list[dict[str, Any]] = [{}, {"clip_norm": 1.0}]


def store() -> Any:
    return torch.distributed.distributed_c10d._get_default_store()


def is_last(ranks: Ranks) -> bool:
    return bool(ranks.mesh.get_local_rank() == ranks.count - 1)


def parameters(ranks: Ranks, count: int = 3, shape: tuple[int, ...] = (9, 4), dtype: Any = torch.float32) -> list[Any]:
    return [
        torch.nn.Parameter(share(torch.full(shape, k + 1.0, dtype=dtype), ranks.mesh, [Shard(0)])) for k in range(count)
    ]


def here(params: list[Any]) -> list[bytes]:
    return [bits(part_of(p)) for p in params]


def give(params: list[Any], without: tuple[int, ...] = ()) -> None:
    """Gradients for all but some parameters."""
    for k, p in enumerate(params):
        p.grad = None if k in without else torch.full_like(p, 0.5)


def after_a_step(ranks: Ranks) -> tuple[list[Any], Any]:
    """Parameters, and the optimizer that has moved all of them."""
    params = parameters(ranks)
    optimizer = fu.torch.AdamW(params, lr=0.1)
    give(params)
    optimizer.step()
    return params, optimizer


def aged(optimizer: Any) -> None:
    for p in optimizer.param_groups[0]["params"]:
        optimizer.state[p]["step"] = torch.tensor(3.0)


DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {  # what the last rank has otherwise, and what all are told
    "rule": ({"rule": fu.torch.SGD}, "rule: expected the same on all ranks, adamw as on the first, received sgd"),
    "option": ({"options": {"ema_decay": 0.5}}, "ema_decay: expected the same on all ranks, None as on the first"),
    "flag": ({"options": {"amsgrad": True}}, "param_groups[0]['amsgrad']: expected the same on all ranks, False"),
    "rate": ({"options": {"lr": 0.2}}, "param_groups[0]['lr']: expected the same on all ranks, 0.1 as on the first"),
    "wrong": ({"lr": -1.0}, "[adamw] lr: expected"),
    "shorter list": ({"count": 2}, "params: expected the same on all ranks, 3 that ranks share as on the first"),
    "shape": ({"shape": (9, 5)}, "params[0][0]: expected the same on all ranks, one with a gradient of shape (9, 4)"),
    "dtype": ({"dtype": torch.float64}, "received one with a gradient of shape (9, 4), torch.float64"),
    "gradient": ({"without": (2,)}, "params[0][2]: expected the same on all ranks, one with a gradient of shape"),
    "none": ({"without": (0, 1, 2)}, "params[0][0]: expected the same on all ranks, one with a gradient of shape"),
    "steps": ({"prepare": aged}, "after 0 steps as on the first, received one with a gradient of shape"),
}


def check_first(options: dict[str, Any], ranks: Ranks) -> None:
    """What a rank has other than the rest at its first step is an error on all, by name; nothing moves. Once it is as
    they have it, all go on."""
    for differing, words in DIFFERENT.values() if ranks.count > 1 else ():
        other = differing if is_last(ranks) else {}
        params = parameters(ranks, **{name: other[name] for name in ("count", "shape", "dtype") if name in other})
        optimizer = other.get("rule", fu.torch.AdamW)(params, **{"lr": 0.1, **options, **other.get("options", {})})
        optimizer.param_groups[0]["lr"] = other.get("lr", optimizer.param_groups[0]["lr"])
        give(params, other.get("without", ()))
        other.get("prepare", lambda _: None)(optimizer)
        before = here(params)
        with pytest.raises(ValueError, match=re.escape(words)):
            optimizer.step()
        assert here(params) == before
        if "without" in differing:
            give(params)
            optimizer.step()
            assert optimizer.report.step == 1


def check_axes(ranks: Ranks) -> None:
    """Ranks along two axes of a mesh that share a parameter are all told at once, too."""
    if ranks.grid is None:
        return
    p = torch.nn.Parameter(share(torch.ones(9, 4), ranks.grid, [Shard(0), Shard(1)]))
    optimizer = fu.torch.AdamW([p], lr=0.2 if is_last(ranks) else 0.1)
    give([p])
    words = "param_groups[0]['lr']: expected the same on all ranks, 0.1 as on the first, received 0.2 on rank 3"
    with pytest.raises(ValueError, match=re.escape(words)):
        optimizer.step()


def check_outside(ranks: Ranks) -> None:
    """A rank that has nothing of a parameter may step, unless it would have to know what others have."""
    if ranks.grid is None:
        return
    mesh = DeviceMesh("cpu", [0, 1])
    for cls in (fu.torch.AdamW, fu.torch.Lamb):
        p = torch.nn.Parameter(share(torch.ones(9, 4), mesh, [Shard(0)]))
        optimizer = cls([p], lr=0.1)
        give([p])
        if cls is fu.torch.AdamW or mesh.get_coordinate() is not None:
            optimizer.step()
            assert optimizer.report.step == 1
        else:
            words = "[lamb] params[0][0]: expected a DTensor that this rank shares"
            with pytest.raises(ValueError, match=re.escape(words)):
                optimizer.step()


@contextmanager
def patient(seconds: float) -> Iterator[None]:
    """Ranks wait so long for others."""
    before = agreement.PATIENCE
    agreement.PATIENCE = timedelta(seconds=seconds / 2)
    store().set_timeout(timedelta(seconds=seconds))
    try:
        yield
    finally:
        agreement.PATIENCE = before
        store().set_timeout(LIMIT)


def check_alone(without: tuple[int, ...], ranks: Ranks) -> None:
    """A rank whose gradients change alone says so and, since no other does, raises; the others do not wait for it."""
    if ranks.count == 1:
        return
    params, optimizer = after_a_step(ranks)
    before = here(params)
    if is_last(ranks):
        give(params, without)
        rank = ranks.count - 1
        words = f"grads[0][{without[0]}]: expected the same on all {ranks.count} ranks that share parameters, received"
        words += f" None on rank {rank}, and no word of others for 0:00:0"
        warned = pytest.warns(RuntimeWarning, match=re.escape(words))
        with patient(2), warned, pytest.raises(ValueError, match=re.escape(words)):
            optimizer.step()
        assert here(params) == before
    else:
        optimizer.step()
        assert optimizer.report.step == 2
    torch.distributed.barrier(ranks.group)
    give(params)
    if is_last(ranks):  # it catches up
        optimizer.step()
    give(params, without)
    optimizer.step()
    if len(without) < len(params):
        assert optimizer.report.step == 3
        assert [int(optimizer.state[p]["step"]) for p in params] == [2 if k in without else 3 for k in range(3)]


def check_together(ranks: Ranks) -> None:
    """Where gradients come and go on all ranks, what they say of it does not stay in the store."""
    if ranks.count == 1:
        return
    params = parameters(ranks)
    optimizer = fu.torch.AdamW(params, lr=0.1)
    keys: list[str] = []
    for step in range(8):
        give(params, () if step % 2 else (1,))
        optimizer.step()
        circle = optimizer.agreement._circles[0][0]
        keys += circle._before
    torch.distributed.barrier(ranks.group)
    assert [circle._store.check([key]) for key in keys] == [False] * (len(keys) - 3) + [True] * 3
    assert [int(optimizer.state[p]["step"]) for p in params] == [8, 4, 8]


@contextmanager
def silent() -> Iterator[None]:
    """Nobody may tell others anything."""

    def refuse(*_: Any) -> Any:
        raise AssertionError("a message")

    before: Callable[..., Any] = agreement.Circle.told
    agreement.Circle.told = refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        agreement.Circle.told = before  # type: ignore[method-assign]


def check_silence(ranks: Ranks) -> None:
    """A step like the last one asks nothing of the store; nor do those of another learning rate."""
    _, optimizer = after_a_step(ranks)
    with silent():
        for lr in (0.1, 0.2, 0.3):
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
    assert optimizer.report.step == 4


def check_apart(ranks: Ranks) -> None:
    """Ranks that all change, and not alike, are all told of it at once."""
    if ranks.count == 1:
        return
    params, optimizer = after_a_step(ranks)
    give(params, (1, 2) if is_last(ranks) else (2,))
    words = f"grads[0][1]: expected a gradient on every rank, or on none, received None on rank {ranks.count - 1}"
    with pytest.raises(ValueError, match=re.escape(words)):
        optimizer.step()
    give(params, (2,))
    optimizer.step()
    assert optimizer.report.step == 2


def check_loaded(ranks: Ranks) -> None:
    """After a state has been loaded ranks look at each other's step counts again."""
    if ranks.count == 1:
        return
    _, optimizer = after_a_step(ranks)
    state = optimizer.state_dict()
    if is_last(ranks):
        for entry in state["state"].values():
            entry["step"] = torch.tensor(7.0)
    optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match=re.escape("after 1 steps as on the first")):
        optimizer.step()


def checks() -> Iterator[Check]:
    """With messages in each step, and without."""
    for options in OPTIONS:
        yield f"the first step, {options}", partial(check_first, options)
    yield "axes", check_axes
    yield "outside", check_outside
    yield "silence", check_silence
    yield "together", check_together
    yield "apart", check_apart
    yield "loaded", check_loaded
    yield "alone", partial(check_alone, (1,))
    yield "alone without any", partial(check_alone, (0, 1, 2))
