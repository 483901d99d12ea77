"""Checkpoints of torch.distributed.checkpoint, saved on some ranks and loaded on others; see sharded_steps.py."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from ranks import MOST, Check, Ranks
from sharded_steps import full, make, same_optimizers, share
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.tensor import DTensor

import fastupdate as fu

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "adamw": ("AdamW", {"weight_decay": 0.1, "clip_norm": 0.5, "ema_decay": 0.9, "lookahead": (3, 0.5)}),
    "amsgrad": ("AdamW", {"weight_decay": 0.1, "amsgrad": True, "shadow": "bfloat16", "decay": "independent"}),
    "sgd": ("SGD", {"momentum": 0.9, "weight_decay": 0.1, "nonfinite": "skip"}),
    "adafactor": ("Adafactor", {"weight_decay": 0.1, "monitor": True}),
    "soap": ("SOAP", {"others": fu.AdamW.with_(lr=0.01), "precondition_frequency": 2, "max_precondition_dim": 20}),
    "nadam": ("NAdam", {"weight_decay": 0.1}),
}
BEFORE, AFTER = 2, 3  # steps


def trained(params: list[Any], optimizer: Any, first: int, steps: int) -> None:
    """So many steps, by gradients that are the same on any number of ranks."""
    for step in range(first, first + steps):
        for k, p in enumerate(params):
            g = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + k))
            p.grad = share(g, p.device_mesh, p.placements) if isinstance(p, DTensor) else g
        optimizer.step()
        optimizer.zero_grad()


def started(kind: str, ranks: Ranks) -> tuple[Any, list[Any], Any]:
    """A model, its parameters that move, and their optimizer."""
    name, options = KINDS[kind]
    model = make(ranks.mesh)
    params = [p for p in model.parameters() if p.requires_grad]
    return model, params, getattr(fu.torch, name)(params, lr=0.01, **options)


def unbroken(kind: str, ranks: Ranks) -> tuple[list[Any], Any]:
    """Whole tensors, and their optimizer, after all steps."""
    name, options = KINDS[kind]
    expected = [torch.nn.Parameter(full(p.detach())) for p in make(ranks.mesh).parameters() if p.requires_grad]
    optimizer = getattr(fu.torch, name)(expected, lr=0.01, **options)
    trained(expected, optimizer, 0, BEFORE + AFTER)
    return expected, optimizer


def check_save(kind: str, ranks: Ranks) -> None:
    """Trains, and saves on these ranks."""
    model, params, optimizer = started(kind, ranks)
    trained(params, optimizer, 0, BEFORE)
    of_model, of_optimizer = get_state_dict(model, optimizer)
    path = ranks.directory / f"{kind}-{ranks.count}"
    checkpoint.save({"model": of_model, "optimizer": of_optimizer}, checkpoint_id=path, process_group=ranks.group)


def check_load(kind: str, ranks: Ranks) -> None:
    """Loads here what each number of ranks has saved; the run goes on as if it had never been broken off."""
    expected, whole = unbroken(kind, ranks)
    for saved_on in range(1, MOST + 1):
        model, params, optimizer = started(kind, ranks)
        of_model, of_optimizer = get_state_dict(model, optimizer)
        found = {"model": of_model, "optimizer": of_optimizer}
        path = ranks.directory / f"{kind}-{saved_on}"
        checkpoint.load(found, checkpoint_id=path, process_group=ranks.group)
        set_state_dict(model, optimizer, model_state_dict=found["model"], optim_state_dict=found["optimizer"])
        trained(params, optimizer, BEFORE, AFTER)
        same_optimizers(optimizer, whole, params, expected)


def check_whole_state(kind: str, ranks: Ranks) -> None:
    """A whole state goes from rank to rank, and torch's own state_dict stays on its rank."""
    expected, whole = unbroken(kind, ranks)
    for options in (None, StateDictOptions(full_state_dict=True)):
        model, params, optimizer = started(kind, ranks)
        trained(params, optimizer, 0, BEFORE)
        again, others, another = started(kind, ranks)
        if options is None:
            again.load_state_dict(model.state_dict())
            another.load_state_dict(optimizer.state_dict())
        else:
            of_model, of_optimizer = get_state_dict(model, optimizer, options=options)
            assert not any(isinstance(value, DTensor) for value in of_model.values())
            set_state_dict(again, another, model_state_dict=of_model, optim_state_dict=of_optimizer, options=options)
        trained(others, another, BEFORE, AFTER)
        same_optimizers(another, whole, others, expected)


def check_dry(kind: str, ranks: Ranks) -> None:
    """Looking for what there is to load moves nothing and counts nothing: the run is that of one never looked at."""
    expected, whole = unbroken(kind, ranks)
    model, params, optimizer = started(kind, ranks)
    before = [p.detach().clone() for p in params]
    found = get_optimizer_state_dict(model, optimizer)
    assert all(torch.equal(full(p.detach()), full(q)) for p, q in zip(params, before, strict=True))
    assert all(not state["step"] for state in found["state"].values() if "step" in state)
    assert len(optimizer.state) == len(params)
    trained(params, optimizer, 0, BEFORE + AFTER)
    same_optimizers(optimizer, whole, params, expected)


def check_warming(ranks: Ranks) -> None:
    """A first step with a learning rate of zero counts, if there is a gradient on any rank."""
    _, params, optimizer = started("adamw", ranks)
    optimizer.param_groups[0]["lr"] = 0.0
    for p in params:
        p.grad = torch.zeros_like(p)
    weight = next(p for p in params if p.dim() == 2)
    gradient = torch.zeros(weight.shape)
    gradient[0] = 1.0  # the first rank has it
    weight.grad = share(gradient, weight.device_mesh, weight.placements)
    optimizer.step()
    assert {float(optimizer.state[p]["step"]) for p in params} == {1.0}


def checks() -> Iterator[Check]:
    """Saving on every number of ranks comes before loading on any."""
    for kind in KINDS:
        yield f"dry step of {kind}", partial(check_dry, kind)
    yield "warming up", check_warming
    for check, kind in itertools.product((check_save, check_load, check_whole_state), KINDS):
        yield f"{check.__name__} {kind}", partial(check, kind)
