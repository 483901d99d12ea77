"""What every engine offers to the step."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, Protocol, TypeVar

from fastupdate.arrays.containers import Contents
from fastupdate.arrays.memory import Array, Assignment
from fastupdate.engines.records import Given, Records

Made = TypeVar("Made")  # what is made of steps taken and learning rate: a report


class Engine(Protocol):
    """What every backend's plan offers. Its clock is [steps taken, micro-batches accumulated, revision].

    The revision becomes another one when the user exchanges a schedule (step/hypers.py).

    clips           what `stepping` makes can clip by the norm of all gradients: the engine is a `Clipper`
    judges          a device looks at the gradients itself, and nobody waits for it: the engine is a `Judge`
    take            reads what the user set from these arrays from now on
    derive          works out groups and stages of the next step; False if Python has to look first
    stages, lr      as of the last `derive`: the stages of the step, the learning rate of the first group
    watch           notes parameters, states that the user brought, and containers of his: adopt looks at them each time
    adopt           points the tensors from `start` on at these gradients; the first that needs a closer look, or −1
    hold            the same for all gradients that torch's parameters hold: what keeps them alive, or None if they need
                    a closer look
    moves           how many times it has pointed any of them elsewhere
    stepping        a function that derives, adopts and updates at once: it returns a report, of steps taken and
                    learning rate, or None if that needs a closer look. It takes the gradients that are handed to it in
                    a list, else those it was made with; without any, those that torch's parameters hold
    repeating       the same within which no other Python thread runs, if the engine can do that: its function takes the
                    arguments of Optimizer.step, of which gradients are a list of `listed` or a structure that the
                    skeleton knows; None: those at hand
    update          one step from the gradients that the records point at, without the stages in `off`: `measure` and
                    `finish`, and nothing comes between
    measure         what comes before any tensor moves: the scalars of the step, and the phases of the rule, but for
                    those that come after products of matrices
    measure_again   those
    finish          the same, moves all tensors as measured, and counts the step
    move, advance   the last two in parts: tensors first … last − 1, in any order; and when all have moved, the count
    forget_rows     makes tensors whole again whose gradients, as adopt took them in, touched rows
    recount         takes in other numbers of elements in the records, and numbers their blocks
    gradient_sums   Σ(scale·g)² and non-finite counts of each block
    unit_norms      norms of gradient and weight of each unit, both times scale
    accumulate      adds the gradients to the accumulators
    clear_gradients zeroes the gradients that the records point at
    fold            sums of blocks → sums of tensors
    overall         sums of tensors → Σ scale²·Σg² over all of them, and how many gradients are not finite
    """

    @property
    def clips(self) -> bool: ...
    @property
    def judges(self) -> bool: ...
    @property
    def moves(self) -> int: ...
    @property
    def stages(self) -> int: ...
    @property
    def lr(self) -> float: ...
    def take(self, given: Given) -> None: ...
    def derive(self) -> bool: ...
    def watch(self, params: list[Array], others: list[Array], containers: list[Contents]) -> None: ...
    def adopt(self, params: list[Array], grads: list[Any], start: int, writable: bool) -> int: ...
    def hold(self, params: list[Array]) -> Any: ...
    def stepping(
        self,
        params: list[Array],
        grads: list[Any] | None,
        scale: float,
        report: Callable[[int, float], Made],
    ) -> Callable[..., Made | None]: ...
    def repeating(
        self,
        params: list[Array],
        grads: list[Any] | None,
        scale: float,
        report: Callable[[int, float], Made],
        lock: Lock,
        listed: int,
        skeleton: Any,
    ) -> Callable[[Any, Any, Any, Any], Made | None] | None: ...
    def update(self, scale: float, off: int) -> None: ...
    def measure(self, scale: float, off: int) -> None: ...
    def measure_again(self) -> None: ...
    def finish(self) -> None: ...
    def move(self, first: int, last: int) -> None: ...
    def advance(self) -> None: ...
    def forget_rows(self) -> None: ...
    def recount(self) -> None: ...
    def gradient_sums(self, scale: float) -> None: ...
    def unit_norms(self, scale: float) -> None: ...
    def accumulate(self) -> None: ...
    def clear_gradients(self) -> None: ...
    def fold(self, totals: Records) -> None: ...
    def overall(self, totals: Records) -> tuple[float, int]: ...


class Clipper(Engine, Protocol):
    """An engine of which `stepping` can clip by the norm of all gradients.

    clip            it does so from now on, by this limit, and reports the norm
    """

    def clip(self, limit: float) -> None: ...


class Judge(Engine, Protocol):
    """An engine that decides on its device whether a step is skipped, and how much gradients are clipped.

    derive_possible  what the step is if none of the undecided steps before it was skipped, if one was …: learning rates
    outcome          what a step will have found, for those that follow
    judged_update    the calls of a step whose gradients the device judges first
    judge            the first part of such a step
    finishing        the calls of the last part, which is `finish`
    clip_units       clips units of the gradients in the step that follows, by their norms, which stay on the device
    prepare_replay   the call that uploads what a captured step reads
    """

    def derive_possible(self, undecided: int) -> list[float]: ...
    def outcome(self, settings: Any) -> Any: ...
    def judged_update(self, scale: float, sign: float, off: int, outcome: Any) -> list[Assignment]: ...
    def judge(self, scale: float, sign: float, off: int, outcome: Any) -> None: ...
    def finishing(self) -> list[Assignment]: ...
    def clip_units(self, limit: float, scale: float) -> None: ...
    def prepare_replay(self, scale: float, sign: float, outcome: Any) -> Assignment: ...
