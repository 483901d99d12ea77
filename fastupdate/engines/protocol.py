"""What every engine offers to the step."""

from __future__ import annotations

from typing import Any, Protocol

from fastupdate.arrays.memory import Array
from fastupdate.engines.records import Records


class Engine(Protocol):
    """What every backend's plan offers. Its clock is [steps taken, micro-batches accumulated].

    adopt           points the tensors from `start` on at these gradients; the first that needs a closer look, or −1
    moves           how many times it has pointed any of them elsewhere
    step            adopt and update at once: the number of steps taken, or 0 if a tensor needs a closer look
    update          one step from the gradients that the records point at
    gradient_sums   Σg² and non-finite counts of each block
    unit_norms      norms of gradient and weight of each unit
    accumulate      adds the gradients to the accumulators
    fold            sums of blocks → sums of tensors
    overall         sums of tensors → Σ scale²·Σg² over all of them, and how many gradients are not finite
    """

    @property
    def moves(self) -> int: ...
    def adopt(self, params: list[Array], grads: list[Any], start: int, writable: bool) -> int: ...
    def step(self, params: list[Array], grads: list[Any], scale: float, stages: int) -> int: ...
    def update(self, scale: float, stages: int) -> None: ...
    def gradient_sums(self) -> None: ...
    def unit_norms(self) -> None: ...
    def accumulate(self, stages: int) -> None: ...
    def fold(self, totals: Records) -> None: ...
    def overall(self, totals: Records) -> tuple[float, int]: ...
