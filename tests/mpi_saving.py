"""What ranks keep, save and load, and how they are told of weights: run by tests/test_mpi.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from cases import CASES, Case, cases_of
from mpi_ranks import Check, Ranks
from mpi_steps import Data, data, make, same, same_states

import fastupdate as fu

OPTIONS = {"ema_decay": 0.9, "lookahead": (2, 0.5), "shadow": "float16", "outliers": (3.0, 10)}
SAVED: list[tuple[Case, str]] = [
    (CASES[-1], "tensors"),
    *((cases_of(name)[0], kind) for name, kind in [("sgdschedulefree", "tensors"), ("muon", "matrices")]),
    *((cases_of(name)[0], "tensors") for name in ("lamb", "adafactor", "prodigy")),
]


def start(kind: str, dtype: Any = np.float32) -> tuple[list[Any], list[list[Any]]]:
    """Parameters, and the gradients of two steps."""
    found: Data = data(kind, dtype)
    return [p.copy() for p in found.params], [total for _, total in found.steps]


def by_first(grads: list[Any], ranks: Ranks) -> list[Any]:
    """The gradients on the first rank, and zeros of no effect on the others, so that there is one order to add them."""
    return [g.copy() if ranks.rank == 0 else np.zeros_like(g) for g in grads]


def take(shared: Any, whole: Any, grads: list[Any], ranks: Ranks) -> None:
    """One step of both."""
    shared.step(by_first(grads, ranks), reduce="sum")
    whole.step([g.copy() for g in grads])


def check_files(case: Case, kind: str, ranks: Ranks) -> None:
    """A file has the bytes of that of one process, and is gone on from on this number of ranks."""
    params, (first, second) = start(kind)
    expected, _ = start(kind)
    shared, whole = make(case, params, ranks.comm, **OPTIONS), case.make(expected, **OPTIONS)
    take(shared, whole, first, ranks)
    path = ranks.directory / f"{case}-{ranks.count}.fu"
    shared.save(path)
    if ranks.rank == 0:
        whole.save(ranks.directory / "whole.fu")
        assert path.read_bytes() == (ranks.directory / "whole.fu").read_bytes()
    ranks.comm.Barrier()
    others, _ = start(kind)
    resumed = make(case, others, ranks.comm, **OPTIONS)
    resumed.load_state_dict(fu.load(path))
    for k, (p, q) in enumerate(zip(others, expected, strict=True)):
        same(p, q, f"parameter {k} as loaded")
    take(resumed, whole, second, ranks)
    same_states(resumed, whole)
    again = case.make(start(kind)[0], **OPTIONS)
    again.load_state_dict(shared.state_dict())


def check_memory(ranks: Ranks) -> None:
    """States are divided by the number of ranks, but for a block of 1024 elements of each bucket."""
    params = [np.ones((300, 1000), np.float32), np.ones(77, np.float32)]
    shared = fu.sharded.AdamW(params, ranks.comm, ema_decay=0.9)
    here = sum(array.nbytes for item in shared.stepper.items for array in item.slots.values())
    n = sum(p.size for p in params)
    assert abs(here - 3 * 4 * n / ranks.count) <= 3 * 4 * 1024
    assert sum(part.size for part in shared.parts.values()) * 3 * 4 == here
    assert ranks.comm.allreduce(here) == 3 * 4 * n


def check_weights(ranks: Ranks) -> None:
    """Averages and the weights to judge by are on all ranks while they are asked for."""
    for case, options in [(CASES[-1], {"ema_decay": 0.9}), (cases_of("adamwschedulefree")[0], {})]:
        params, (first, second) = start("tensors")
        expected, _ = start("tensors")
        shared, whole = make(case, params, ranks.comm, **options), case.make(expected, **options)
        take(shared, whole, first, ranks)
        if options:
            with shared.ema_weights(), whole.ema_weights():
                assert all(p.tobytes() == q.tobytes() for p, q in zip(params, expected, strict=True))
        for turn in ("eval", "train"):
            getattr(shared, turn)()
            getattr(whole, turn)()
            assert all(p.tobytes() == q.tobytes() for p, q in zip(params, expected, strict=True)), turn
        take(shared, whole, second, ranks)
        same_states(shared, whole)


def check_groups(ranks: Ranks) -> None:
    """Groups chosen by arrays and patterns, tensors that thaw, are frozen, and rest; gradients that are zeroed."""
    params, steps = start("tensors")
    expected, _ = start("tensors")

    def options(arrays: list[Any]) -> dict[str, Any]:
        groups = [{"params": arrays[1], "lr": 0.5}, {"params": "7", "frozen_until": 1}]
        return {"groups": groups, "zero_grads": True, "missing": "skip", "clip_norm": 1.0}

    shared = fu.sharded.AdamW(params, ranks.comm, **options(params))
    whole = fu.AdamW(expected, **options(expected))
    for k, grads in enumerate([*steps, *steps]):
        if k == 2:
            assert shared.freeze(params[0]) == whole.freeze(expected[0]) == ["0"]
        if k == 3:
            shared.unfreeze("0", state=0.5)
            whole.unfreeze("0", state=0.5)
        own, others = by_first(grads, ranks), [g.copy() for g in grads]
        if k == 1:
            own[5] = others[5] = None
        shared.step(own, reduce="sum")
        whole.step(others)
        assert not any(g.any() for g in others[1:5])
        assert not any(g.any() for g in own[1:5])
    same_states(shared, whole)
    for p, q in zip(params, expected, strict=True):
        same(p, q, "a parameter")


def check_plain(ranks: Ranks) -> None:
    """Without pieces each rank hands over as many as it likes, bound ones too, and float16 is widened."""
    params = {"w": np.ones((70, 30), np.float32)}
    expected = {"w": np.ones((70, 30), np.float32)}
    shared, whole = fu.sharded.SGD(params, ranks.comm, lr=0.5), fu.SGD(expected, lr=0.5)
    grads = {"w": np.full((70, 30), ranks.rank + 1, np.float16)}
    shared.bind(grads)
    shared.accumulate()
    shared.accumulate({"w": np.full((70, 30), 2.0, np.float16)})
    shared.step()
    total = sum(range(1, ranks.count + 1)) + 2 * ranks.count
    whole.step({"w": np.full((70, 30), total, np.float32)}, loss_scale=2 * ranks.count)
    same(params["w"], expected["w"], "w")
    shared.step()
    whole.step({"w": np.full((70, 30), total - 2 * ranks.count, np.float32)}, loss_scale=ranks.count)
    same(params["w"], expected["w"], "w")


def checks() -> Iterator[Check]:
    for case, kind in SAVED:
        yield f"files of {case}", partial(check_files, case, kind)
    yield "memory", check_memory
    yield "weights", check_weights
    yield "groups", check_groups
    yield "plain", check_plain
