"""Step counts: the `step` tensors of states are elements of one array, so that all are counted at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from numpy.typing import NDArray

from fastupdate.torch.names import STEP
from fastupdate.torch.states import Entry

Counts = tuple[NDArray[Any], list[int]]  # of floats, as torch counts, and where in it each one is


def counts_of(entries: Iterable[Entry]) -> Counts | None:
    """Where the step counts of these states are; None unless they are elements of one array."""
    steps: list[Any] = [entry.peek(STEP) for entry in entries]
    if not all(isinstance(step, torch.Tensor) and not step.dim() and step.device.type == "cpu" for step in steps):
        return None
    storage, dtype = steps[0].untyped_storage(), steps[0].dtype
    if dtype not in (torch.float32, torch.float64) or any(step.dtype != dtype for step in steps):
        return None
    if any(step.untyped_storage().data_ptr() != storage.data_ptr() for step in steps):
        return None
    return torch.empty(0, dtype=dtype, device="cpu").set_(storage).numpy(), [step.storage_offset() for step in steps]


def move_together(entries: Iterable[Entry]) -> None:
    """Makes the step counts of these states elements of a new array. Whoever holds one goes on to see it counted."""
    entries = list(entries)
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    together = torch.tensor([float(entry.peek(STEP)) for entry in entries], dtype=dtype, device="cpu")
    for entry, step in zip(entries, together.unbind(), strict=True):
        held = entry.peek(STEP)
        if isinstance(held, torch.Tensor) and (held.dtype, held.device, held.shape) == (dtype, step.device, step.shape):
            held.data, step = step, held
        entry.keep(STEP, step)
