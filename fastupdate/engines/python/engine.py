"""The Numba backend: the engine of csrc/cpu/engine.h in Python, around the rules' own functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np

from fastupdate.arrays import memory
from fastupdate.arrays.containers import Contents
from fastupdate.arrays.foreign import Identity
from fastupdate.arrays.memory import Array
from fastupdate.engines import derive, forks, records, threads
from fastupdate.engines.protocol import Engine, Made
from fastupdate.engines.python import kernels, loops, phases, sums, tiles
from fastupdate.engines.python.formula import CPU, Target
from fastupdate.engines.python.loops import Measured
from fastupdate.engines.python.whole import Task, done_whole
from fastupdate.engines.records import MICRO_BATCHES, REVISION, STEPS, Given, Records, Tables
from fastupdate.rules.rule import Rule
from fastupdate.stages import MEASURING

NAME = "numba"
WALKS_MEMORY = False


def reads(tensor: Any) -> bool:
    """It sees torch tensors by NumPy's headers over their memory."""
    return False


PARALLEL_COST = 1 << 17  # elements below which waking a thread costs more than it saves
TENSOR_COST = 64  # a tensor costs about as much as this many elements

Span = tuple[int, int]  # the first block, and the one after the last


class RecordPlan:
    """A plan over records that no compiled module runs."""

    moves = 0  # whatever has moved is looked at closely
    judges = clips = False
    stages = 0  # of the step that was derived last
    lr = 0.0
    target: Target = CPU

    def __init__(self, rule: Rule, flags: Mapping[str, bool], tables: Tables) -> None:
        self._tensors, self._groups, recipe, self._clock, wanted = tables
        self._rule, self._mask, self._recipe = rule, rule.mask(flags), recipe[0]
        self._dtypes = tables.dtypes
        self._phases = [loops.of_phase(rule, k) for k in range(len(rule.phases))]
        self._sums = np.zeros((max(len(wanted), 1), sums.COLUMNS))
        self.recount()
        self._given: Given | None = None
        self._watched: list[tuple[Array, Identity]] = []
        self._containers: list[Contents] = []
        self._step: tuple[Array, float, int] = (np.empty(0), 1.0, 0)  # that is under way: scalars, scale, stages
        for dtype in self._dtypes:  # whatever cannot be compiled is known before anything has moved
            self._kernel(kernels.update, dtype, self._loops_of(dtype))
            for phase in filter(lambda phase: phase.measures, self._phases):
                self._kernel(phases.measure, dtype, self._loops_of(dtype, phase))

    def _loops_of(self, dtype: Any, phase: Measured | None = None) -> tuple[Any, ...]:
        """What kernels call that move tensors, or that measure by a phase."""
        if phase is None:
            return loops.rule_loop(self.target, self._rule, self._mask, dtype), self._stage_loops(dtype)
        return (*phase.loops(self.target, self._rule, self._mask, dtype), self._stage_loops(dtype))

    def _stage_loops(self, dtype: Any) -> Any:
        """What runs the stages of the step, compiled when the first of them is asked for."""
        return loops.stage_loops(self.target, dtype, bool(self._step[2] & tiles.STAGES))

    def _kernel(self, work: Any, dtype: Any, functions: tuple[Any, ...]) -> Any:
        """What does some work on blocks of tensors of a type, by these functions."""
        return kernels.entry(work)

    def _run(
        self, work: Any, dtype: Any, functions: tuple[Any, ...], *arguments: Any, span: Span | None = None
    ) -> None:
        """Has it done on all blocks, or on a span of them."""
        raise NotImplementedError

    def _whole(self, work: Callable[[], None]) -> None:
        """Does work that no handler of signals may cut short."""
        raise NotImplementedError

    def _run_each(self, work: Any, *arguments: Any) -> None:
        """Work that calls nothing, for each type."""
        for dtype in self._dtypes:
            self._run(work, dtype, (), *arguments)

    def update(self, scale: float, off: int) -> None:
        self._begin(scale, off)

        def work() -> None:
            self._measure()
            self._finish()

        self._whole(work)

    def measure(self, scale: float, off: int) -> None:
        self._begin(scale, off)
        self._whole(self._measure)

    def measure_again(self) -> None:
        self._whole(self._measure_again)

    def finish(self) -> None:
        self._whole(self._finish)

    def _begin(self, scale: float, off: int) -> None:
        self._step = self._prepared(), scale, self.stages & ~off

    def _measure(self) -> None:
        self._measure_stages(tiles.GRADIENTS)
        self._measure_phases(self._phases[: self._rule.phases_before])

    def _measure_again(self) -> None:
        self._measure_phases(self._phases[self._rule.phases_before :])

    def _finish(self) -> None:
        self._measure_again()
        self._measure_stages(~tiles.GRADIENTS)
        self._move()
        self.advance()

    def _move(self, span: Span | None = None) -> None:
        prepared, scale, stages = self._step
        found = self._sums if stages & records.MONITOR else self._sums[:1]
        for dtype in self._dtypes:
            step = self._group_rows, prepared.astype(dtype), scale, stages
            self._run(kernels.update, dtype, self._loops_of(dtype), *step, found, span=span)

    @property
    def _group_rows(self) -> Records:
        return self._groups.view(tiles.GROUP)

    def _measure_phases(self, measured: list[Measured]) -> None:
        prepared, _, stages = self._step
        for phase in measured:
            self._measure_phase(phase, prepared, stages & ~phases.CHANGES)

    def _measure_stages(self, places: int) -> None:
        """The sums that stages of these places need: each measures what those before it have made."""
        stages = self._step[2]
        for stage in MEASURING:
            if stage.bit & stages & places:
                numbers = np.array([[group[number] for number in stage.numbers] for group in self._groups], np.float64)
                self._measure_phase(loops.of_stage(stage), numbers, stages & (stage.bit - 1))

    def _measure_phase(self, phase: Measured, settling: Array, stages: int) -> None:
        """settling: what settles a range has for scalars, a row for each group."""
        prepared, scale, _ = self._step
        shape = phase.terms, phase.maxima, phase.by_rows
        for dtype in self._dtypes if phase.measures else []:
            step = self._group_rows, prepared.astype(dtype), scale, stages
            self._run(phases.measure, dtype, self._loops_of(dtype, phase), *shape, phase.columns, *step)
        *of_ranges, of_list = phase.settles(self.target, self._rule, self._mask)
        for dtype in self._dtypes:
            self._run(phases.settle, dtype, tuple(of_ranges), *shape, phase.shape, settling)
        for dtype in self._dtypes if phase.by_list else []:
            self._run(phases.settle_list, dtype, (of_list,), phase.terms, phase.maxima, settling)

    def gradient_sums(self, scale: float) -> None:
        self._whole(partial(self._run_each, kernels.gradient_sums, self._sums, scale))

    def unit_norms(self, scale: float) -> None:
        self._whole(partial(self._run_each, kernels.unit_norms, scale))

    def accumulate(self) -> None:
        first, clear = bool(self._clock[MICRO_BATCHES] == 0), bool(self.stages & records.ZERO_GRADS)

        def work() -> None:
            self._run_each(kernels.accumulate, first, clear)
            self._clock[MICRO_BATCHES] += 1

        self._whole(work)

    def clear_gradients(self) -> None:
        self._whole(partial(self._run_each, kernels.clear_gradients))

    def take(self, given: Given) -> None:
        self._given = given

    def derive(self) -> bool:
        given, taken = self._given, int(self._clock[STEPS])
        if given is None or given.revision != self._clock[REVISION] or taken >= self._recipe["next_thaw"]:
            return False
        if not derive.look_up(given, taken) or not derive.holds_numbers(self._recipe, given):
            return False
        self.stages = derive.fill(self._recipe, given, taken, self._groups)
        self.lr = float(derive.scaled_lr(self._recipe, given.values[:1])[0])
        return True

    def _prepared(self) -> Array:
        """The rule's scalars of the coming step, a row for each group."""
        hypers = list(self._rule.hypers)
        rows = [dict(zip(hypers, map(float, group["hyper"]), strict=False)) for group in self._groups]
        prepared = [self._rule.prepare(h, int(t) + 1) for h, t in zip(rows, self._groups["t"], strict=True)]
        return np.array(prepared, np.float64)

    def recount(self) -> None:
        self._tensors["first_block"] = records.first_blocks(self._tensors["n"])
        self._blocks = int((-(-self._tensors["n"] // records.BLOCK)).sum())
        self._cost = int(self._tensors["n"].sum()) + TENSOR_COST * len(self._tensors)

    def advance(self) -> None:
        self._groups["t"] += 1
        self._clock[STEPS] += 1
        self._clock[MICRO_BATCHES] = 0

    def watch(self, params: list[Array], others: list[Array], containers: list[Contents]) -> None:
        self._watched = [(array, Identity.of(array)) for array in (*params, *others)]
        self._containers = containers

    def _intact(self) -> bool:
        """Whether arrays and containers of the user's are what they were."""
        containers = all(contents.intact() for contents in self._containers)
        return containers and all(Identity.of(array) == noted for array, noted in self._watched)

    def adopt(self, params: list[Array], grads: list[Any], start: int, writable: bool) -> int:
        """Accepts only gradients that were looked at closely before and lie where they did."""
        if start == 0 and not self._intact():
            return 0
        for k in range(start, len(grads)):
            p, g, row = params[k], grads[k], self._tensors[k]
            same = (
                (type(g) is np.ndarray or type(g) is type(p))
                and g.shape == p.shape
                and memory.code_of(g.dtype) == row["g_dtype"]
                and memory.is_direct(g)
                and (g.flags.writeable or not writable)
            )
            if not (same and memory.address(g) == row["g"] and row["samples"] == 1 and not row["g_layout"]):
                return k
            row["scale"] = 1.0
        return -1

    def forget_rows(self) -> None:
        """Gradients of few rows always need a closer look."""

    def hold(self, params: list[Array]) -> None:
        """torch's gradients always need a closer look."""

    def stepping(
        self,
        params: list[Array],
        grads: list[Any] | None,
        scale: float,
        report: Callable[[int, float], Made],
    ) -> Callable[..., Made | None]:
        """A step in one call."""

        def step(given: list[Any] | None = grads) -> Made | None:
            if given is None or self._clock[MICRO_BATCHES] or not self.derive():
                return None
            if self.adopt(params, given, 0, bool(self.stages & records.ZERO_GRADS)) >= 0:
                return None
            self.update(scale, 0)
            return report(int(self._clock[STEPS]), self.lr)

        return step

    def repeating(self, *_: Any) -> None:
        """Other threads run during a step."""

    def fold(self, totals: Records) -> None:
        table = np.empty((len(totals), sums.COLUMNS))
        sums.fold(self._tensors.view(tiles.TENSOR), self._sums.reshape(-1), table)
        for k, name in enumerate(records.SUMS.names or ()):
            totals[name] = table[:, k]

    def overall(self, totals: Records) -> tuple[float, int]:
        """Of all tensors: Σ scale²·Σg², folded pairwise, and how many gradients are not finite."""
        squares = totals["gg"] * np.square(self._tensors["scale"])
        found = sums.fold_parts(squares, 0, len(squares), 1, False, np.empty(sums.LEVELS))
        return float(found), int(totals["nonfinite"].sum())


class NumbaPlan(RecordPlan):
    """The records of a plan, run range by range on a pool of threads that need no GIL."""

    def _whole(self, work: Callable[[], None]) -> None:
        done_whole(work)

    def move(self, first: int, last: int) -> None:
        starts = [*self._tensors["first_block"], self._blocks]
        self._measure_stages(~tiles.GRADIENTS)  # of all tensors, for nothing has changed in those that wait
        done_whole(partial(self._move, (starts[first], starts[last])))

    def _run(
        self, work: Any, dtype: Any, functions: tuple[Any, ...], *arguments: Any, span: Span | None = None
    ) -> None:
        """In as many ranges as there are threads."""
        begin, end = span or (0, self._blocks)
        n = max(min(threads.get_num_threads(), end - begin), 1) if self._cost >= PARALLEL_COST else 1
        cuts = [begin + (end - begin) * k // n for k in range(n + 1)]
        rows, like = self._tensors.view(tiles.TENSOR), np.empty(0, dtype)
        run = partial(self._kernel(work, dtype, functions), rows, *functions, *arguments, like)
        parts = [Task(partial(run, first, last)) for first, last in pairwise(cuts[1:])]
        for part in parts:
            try:
                _pool().submit(part.run)
            except (RuntimeError, MemoryError):  # no thread can be started; one that there is may do it all the same
                part.run()
        run(cuts[0], cuts[1])
        for part in parts:
            part.wait()
        for part in parts:
            part.check()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=64, thread_name_prefix="fastupdate")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked child has no threads but its own
forks.wait_first()  # before they take the locks of thread pools


def make_plan(rule: Rule, flags: Mapping[str, bool], tables: Tables) -> Engine:
    """A plan that Numba runs."""
    return NumbaPlan(rule, flags, tables)
