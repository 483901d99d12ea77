"""The CUDA backend: the plan's records go to the device, and what it finds out comes back when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastupdate import _cuda
from fastupdate.arrays import autograd, device, frameworks
from fastupdate.arrays.containers import Contents
from fastupdate.arrays.device import DeviceArray, Placed, framework_of_type
from fastupdate.arrays.frameworks import Framework
from fastupdate.arrays.memory import Array, Assignment
from fastupdate.engines import records
from fastupdate.engines.protocol import Made
from fastupdate.engines.records import Given, Records, Tables
from fastupdate.rules.rule import Rule
from fastupdate.step.decide import NONFINITE
from fastupdate.step.options import Settings
from fastupdate.step.report import tensor_statistics
from fastupdate.step.transaction import in_turn

NAME = "cuda"


@cache
def _knows_torch() -> bool:
    return autograd.introduce(_cuda)


class Backend(Placed):
    """Makes plans for arrays of one framework on one device."""

    NAME = NAME
    WALKS_MEMORY = False

    def reads(self, tensor: Any) -> bool:
        """Where the parameters are torch's, the engine looks at tensors itself (see engines/native.py)."""
        return isinstance(self.framework, frameworks.Torch) and _knows_torch() and _cuda.reads(tensor, self.device)

    def make_plan(self, rule: Rule, flags: Mapping[str, bool], tables: Tables) -> Plan:
        """A plan that a few launches run."""
        tensors, groups, recipe, clock, sums = tables
        wanted, kind = bool(len(sums)), device.array_type(self.device)
        native = _cuda.Plan(rule.name, rule.mask(flags), tensors, groups, recipe, clock, wanted, self.device, kind)
        return Plan(native, self.framework, self.device)


class Plan:
    """Engine for device arrays. Everything is queued on the current stream of the parameters' framework."""

    judges, clips = True, False

    def __init__(self, native: Any, framework: Framework, number: int) -> None:
        self._native, self._framework, self._device = native, framework, number
        self._foreign: frozenset[Framework] = frozenset()  # that gradients come from, other than the parameters'

    def _stream(self) -> int:
        """The stream to work on, after what producers of gradients have queued elsewhere."""
        stream = self._framework.stream(self._device)
        for framework in self._foreign:
            if (theirs := framework.stream(self._device)) != stream:
                _cuda.follow(stream, theirs, self._device)
        return stream

    def _release(self, stream: int) -> None:
        in_turn(self._releasing(stream))

    def _releasing(self, stream: int) -> list[Assignment]:
        """The calls by which others may use their memory again once we have read it."""
        streams = [framework.stream(self._device) for framework in self._foreign]
        return [(_cuda.follow, theirs, stream, self._device) for theirs in streams if theirs != stream]

    def watch(self, params: list[Array], others: list[Array], containers: list[Contents]) -> None:
        self._native.watch(params, others, containers)

    def adopt(self, params: list[Array], grads: list[Any], start: int, writable: bool) -> int:
        if start == 0:
            self._foreign = self._others(grads)
        return int(self._native.adopt(params, grads, start, writable))

    def _others(self, grads: list[Any]) -> frozenset[Framework]:
        """Frameworks of gradients that are not the parameters'. A list is of few types."""
        kinds, found = set(map(type, grads)), set[Framework]()
        if any(issubclass(kind, DeviceArray) for kind in kinds):
            found = {g.framework for g in grads if isinstance(g, DeviceArray)}
        if any(framework_of_type(kind) == "torch" for kind in kinds):
            found.add(frameworks.Torch())
        return frozenset(found - {self._framework, frameworks.UNORDERED})

    def hold(self, params: list[Array]) -> None:
        """What torch's parameters hold is taken by `stepping` alone."""

    @property
    def moves(self) -> int:
        return int(self._native.moves)

    @property
    def stages(self) -> int:
        return int(self._native.stages)

    @property
    def lr(self) -> float:
        return float(self._native.lr)

    def take(self, given: Given) -> None:
        self._native.take(given)

    def derive(self) -> bool:
        return bool(self._native.derive())

    def derive_possible(self, undecided: int) -> list[float]:
        """What the step is if none of the undecided steps before it was skipped, if one was …: the learning rates."""
        lrs: list[float] = self._native.derive_possible(undecided)
        return lrs

    def stepping(
        self,
        params: list[Array],
        grads: list[Any] | None,
        scale: float,
        report: Callable[[int, float], Made],
    ) -> Callable[..., Made | None]:
        at_hand = self._others(grads or [])

        def step(given: list[Any] | None = grads) -> Made | None:
            self._foreign = at_hand if given is grads else self._others(given or [])
            stream = self._stream()
            taken: tuple[int, float] | None = self._native.step(params, given, scale, stream)
            self._release(stream)
            return report(*taken) if taken else None

        return step

    def repeating(self, *_: Any) -> None:
        """Other threads run during a step."""

    def update(self, scale: float, off: int) -> None:
        stream = self._stream()
        self._native.update(scale, off, stream)
        self._release(stream)

    def outcome(self, settings: Settings) -> Any:
        """What the device will have found of a step, and what it is to find out and to do about it."""
        return _cuda.Outcome(
            self._native,
            clip_norm=settings.clip_norm or 0.0,
            clip_tensor_norm=settings.clip_tensor_norm or 0.0,
            clip_unit_norm=settings.clip_unit_norm or 0.0,
            sums=settings.needs_sums,
            skip_nonfinite=settings.nonfinite == "skip",
            monitor=settings.monitor,
        )

    def judged_update(self, scale: float, sign: float, off: int, outcome: Any) -> list[Assignment]:
        """The calls of a step whose gradients the device judges first."""
        stream = self._stream()
        return [(self._native.judged_update, scale, sign, off, outcome, stream), *self._releasing(stream)]

    def judge(self, scale: float, sign: float, off: int, outcome: Any) -> None:
        """The first part of such a step, before `finishing`."""
        self._native.judge(scale, sign, off, outcome, self._stream())

    def measure(self, scale: float, off: int) -> None:
        self._native.judge(scale, 1.0, off, None, self._stream())

    def measure_again(self) -> None:
        raise NotImplementedError("a device measures again when it moves the tensors: see finish")

    def finish(self) -> None:
        in_turn(self.finishing())

    def finishing(self) -> list[Assignment]:
        """The calls that move the tensors and count the step."""
        stream = self._stream()
        return [(self._native.finish, stream), *self._releasing(stream)]

    def move(self, first: int, last: int) -> None:
        raise NotImplementedError("a device moves all tensors at once: see finish")

    def forget_rows(self) -> None:
        """There are none: see recount."""

    def recount(self) -> None:
        raise NotImplementedError("a device moves whole tensors: gradients of few rows are refused")

    def advance(self) -> None:
        raise NotImplementedError("a device counts a step when it moves the tensors: see finish")

    def prepare_replay(self, scale: float, sign: float, outcome: Any) -> Assignment:
        """The call that uploads what a captured step reads."""
        stream, owner = self._framework.stream(self._device), self._framework.owner_of_stream(self._device)
        return (self._native.prepare_replay, scale, sign, outcome, stream, owner)

    def fetch_replayed(self) -> None:
        """Fetches what the launch of a captured step has found, from the stream for which it was prepared; waits."""
        self._native.fetch_replayed()

    def gradient_sums(self, scale: float) -> None:
        self._native.gradient_sums(scale != 1, self._stream())

    def unit_norms(self, scale: float) -> None:
        raise NotImplementedError("the device clips units by itself: see clip_units")

    def clip_units(self, limit: float, scale: float) -> None:
        self._native.clip_units(limit, scale, self._stream())

    def accumulate(self) -> None:
        stream = self._stream()
        self._native.accumulate(stream)
        self._release(stream)

    def clear_gradients(self) -> None:
        stream = self._stream()
        self._native.clear_gradients(stream)
        self._release(stream)

    def fold(self, totals: Records) -> None:
        self._native.fold(totals, self._framework.stream(self._device))

    def overall(self, totals: Records) -> tuple[float, int]:
        overall: tuple[float, int] = self._native.overall(totals)
        return overall


class StepOfDevice:
    """A step of which the device knows what came of it: the figures of its report, which whoever asks for waits for.

    outcome  what the device will have found
    """

    def __init__(
        self,
        outcome: Any,
        taken: int,
        lrs: list[float],
        before: list[StepOfDevice],
        engine: Any,
        settings: Settings,
        watched: Watched,
    ) -> None:
        self.outcome = outcome
        self._taken, self._lrs, self._before = taken, lrs, before  # if no step was skipped; by how many were; which may
        self._settings, self._watched = settings, watched
        self._engine: Any = engine

    def count(self, steps: int) -> None:
        """Notes that so many steps are counted; the engine is asked again only if it has captured the step."""
        self._taken = steps
        if self.fetched:
            self._engine = None

    @property
    def fetched(self) -> bool:
        """Whether the figures are on their way: not so for a step that was captured."""
        return bool(self.outcome.fetched)

    @property
    def ready(self) -> bool:
        """Whether the figures can be looked at without waiting."""
        return bool(self.outcome.ready)

    @cached_property
    def _skips_before(self) -> int:
        """How many of the steps that were undecided at the time were skipped."""
        count = sum(step.left_out for step in self._before)
        self._before = []  # or each step would keep all steps before it
        return count

    def settle(self) -> bool:
        """Whether the step was left out; waits for the device, and lets go of the steps before it."""
        return self._skips_before >= 0 and self.left_out

    @property
    def left_out(self) -> bool:
        """Whether the step was skipped, or was a captured one whose graph was never launched."""
        return bool(self._fetched().lost) or self.skipped

    def _fetched(self) -> Any:
        """The outcome, with its figures on their way."""
        if not self.fetched:
            self._engine.fetch_replayed()
        return self.outcome

    @cached_property
    def _decision(self) -> tuple[float, float, int, bool]:
        decision: tuple[float, float, int, bool] = self._fetched().decision()
        return decision

    @property
    def lr(self) -> float:
        return self._lrs[self._skips_before]

    @property
    def step(self) -> int:
        return self._taken - self._skips_before - self.skipped

    @property
    def grad_norm(self) -> float | None:
        return self._decision[0] if self._settings.needs_sums else None

    @property
    def clip_factor(self) -> float:
        return self._decision[1] if self._settings.needs_sums else 1.0

    @property
    def nonfinite(self) -> int | None:
        return self._decision[2] if self._settings.needs_sums else None

    @property
    def skipped(self) -> bool:
        return self._settings.nonfinite == "skip" and self._decision[3]

    @property
    def reason(self) -> str | None:
        return NONFINITE if self.skipped else None

    @cached_property
    def table(self) -> Any:
        """The statistics of each tensor; None unless they are watched."""
        if not self._settings.monitor or self.skipped:
            return None
        return self._watched.statistics(self._fetched())


class Watched:
    """What the statistics of a monitored step are made of beside the sums."""

    def __init__(self, names: NDArray[np.object_], sizes: NDArray[np.int64], scales: Any, sign: float) -> None:
        self.names, self.sizes, self.scales, self.sign = names, sizes, scales, sign

    def statistics(self, outcome: Any) -> Records:
        """The monitored figures of each tensor; waits for the device."""
        totals = np.zeros(len(self.names), records.SUMS)
        outcome.totals(totals)
        return tensor_statistics(self.names, self.sizes, totals, self.scales, self.sign)
