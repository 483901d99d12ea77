"""The Numba backend: the engine of csrc/cpu/engine.h in Python, around the rules' own functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
from numba import boolean, from_dtype, int64, void

from fastupdate.arrays import memory
from fastupdate.arrays.containers import Contents
from fastupdate.arrays.foreign import Identity
from fastupdate.arrays.memory import Array
from fastupdate.engines import derive, forks, records, threads
from fastupdate.engines.protocol import Engine, Made
from fastupdate.engines.python import kernels, measuring, phases, sums, tiles
from fastupdate.engines.python.compiling import c_function, defined
from fastupdate.engines.python.formula import Formula
from fastupdate.engines.python.measuring import Measured
from fastupdate.engines.python.stages import no_stages, stage_loops
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


_LOOP = """
def loop(t, scalars, scale, begin, g, p, out, moves):
    {states}
    s = Scalars({scalars})
    absent = scale - scale
    for i in range(len(p)):
        {results} = update(flags, s, g[i] * scale, p[i], {values})
        if moves:
            p[i] = p[i] + delta
        else:
            out[i] = delta
"""


@cache
def rule_loop(rule: Rule, mask: int, dtype: Any) -> Any:
    """A rule's loop over arrays (csrc/cpu/rule_loop.h), as a C function.

    moves: p ← p + Δ, else out ← Δ. LLVM makes two loops of it, Numba looks at the rule once.
    """
    formula = Formula(rule, mask, dtype)
    source = _LOOP.format(
        states=formula.tiles,
        scalars=formula.scalars,
        results="".join(f"{result}, " for result in ("delta", *formula.targets)),
        values=", ".join(formula.values),
    )
    scope = formula.scope | {"update": formula.compiled(rule.update)}
    x = from_dtype(dtype)
    signature = void(from_dtype(records.TENSOR), x[::1], x, int64, x[::1], x[::1], x[::1], boolean)
    return c_function(signature, defined(source, scope)["loop"])


class RecordPlan:
    """What plans over records have in common that no compiled module runs."""

    moves = 0  # whatever has moved is looked at closely
    judges = clips = False
    stages = 0  # of the step that was derived last
    lr = 0.0

    def __init__(self, rule: Rule, flags: Mapping[str, bool], tables: Tables) -> None:
        self._tensors, self._groups, recipe, self._clock, self._sums = tables
        self._rule, self._mask, self._recipe = rule, rule.mask(flags), recipe[0]
        self._dtypes = tables.dtypes
        self._phases = [measuring.of_phase(rule, self._mask, k) for k in range(len(rule.phases))]
        self.recount()
        self._given: Given | None = None
        self._watched: list[tuple[Array, Identity]] = []
        self._containers: list[Contents] = []
        self._step: tuple[Array, float, int] = (np.empty(0), 1.0, 0)  # that is under way: scalars, scale, stages

    def update(self, scale: float, off: int) -> None:
        raise NotImplementedError

    def measure(self, scale: float, off: int) -> None:
        self._step = self._prepared(), scale, self.stages & ~off

    def measure_again(self) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError

    def _measure(self) -> None:
        self._measure_stages(tiles.GRADIENTS)
        self._measure_phases(self._phases[: self._rule.phases_before])

    def _measure_again(self) -> None:
        self._measure_phases(self._phases[self._rule.phases_before :])

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
                self._measure_phase(measuring.of_stage(stage), numbers, stages & (stage.bit - 1))

    def _measure_phase(self, phase: Measured, settling: Array, stages: int) -> None:
        """settling: what settles a range has for scalars, a row for each group."""
        raise NotImplementedError

    def _settle(self, tensors: Records, phase: Measured, settling: Array) -> None:
        """Settles the sums that these records lead to."""
        *of_tensors, of_list = phase.settles
        phases.settle(tensors, settling, phase.terms, phase.maxima, phase.by_rows, phase.shape, *of_tensors)
        if phase.by_list and len(tensors):
            phases.settle_list(tensors, settling, phase.terms, phase.maxima, of_list)

    def take(self, given: Given) -> None:
        self._given = given

    def derive(self) -> bool:
        given, taken = self._given, int(self._clock[STEPS])
        if given is None or given.revision != self._clock[REVISION] or taken >= self._recipe["next_thaw"]:
            return False
        possible = derive.has_states_for, derive.holds_numbers
        if not derive.look_up(given, taken) or not all(test(self._recipe, given) for test in possible):
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
        sums.fold(self._tensors, self._sums, totals)

    def overall(self, totals: Records) -> tuple[float, int]:
        """Of all tensors: Σ scale²·Σg², folded pairwise, and how many gradients are not finite."""
        squares = totals["gg"] * np.square(self._tensors["scale"])
        return float(sums.fold_column(squares)), int(totals["nonfinite"].sum())


class NumbaPlan(RecordPlan):
    """The records of a plan, run range by range on a pool of threads that need no GIL."""

    def __init__(self, rule: Rule, flags: Mapping[str, bool], tables: Tables) -> None:
        super().__init__(rule, flags, tables)
        self._likes = [np.empty(0, dtype) for dtype in self._dtypes]
        self._loops = [rule_loop(rule, self._mask, dtype) for dtype in self._dtypes]
        for phase in self._phases:  # whatever cannot be compiled is known before anything has moved
            self._loops_of(phase)

    def update(self, scale: float, off: int) -> None:
        super().measure(scale, off)

        def work() -> None:
            self._measure()
            self._finish()

        done_whole(work)

    def measure(self, scale: float, off: int) -> None:
        super().measure(scale, off)
        done_whole(self._measure)

    def measure_again(self) -> None:
        done_whole(self._measure_again)

    def _loops_of(self, phase: Measured) -> list[tuple[Any, Any]]:
        """What measures by it, for each type; nothing where it does not look at elements."""
        dtypes = self._dtypes if phase.measures else []
        return [measuring.loops(phase.of, self._rule, self._mask, dtype) for dtype in dtypes]

    def _measure_phase(self, phase: Measured, settling: Array, stages: int) -> None:
        prepared, scale, _ = self._step
        shape = phase.terms, phase.maxima, phase.by_rows, phase.columns
        for like, (loop, change) in zip(self._likes, self._loops_of(phase), strict=phase.measures):
            run, scalars = self._stage_loops(like.dtype), prepared.astype(like.dtype)
            self._run(phases.measure, loop, change, run, *shape, self._groups, scalars, scale, stages, like)
        self._settle(self._tensors, phase, settling)

    def finish(self) -> None:
        done_whole(self._finish)

    def _finish(self) -> None:
        self._measure_again()
        self._measure_stages(~tiles.GRADIENTS)
        self._move(self._run)
        self.advance()

    def move(self, first: int, last: int) -> None:
        cuts = [*self._tensors["first_block"], self._blocks]
        run = partial(self._run_part, cuts[first], cuts[last])
        self._measure_stages(~tiles.GRADIENTS)  # of all tensors, for nothing has changed in those that wait
        done_whole(partial(self._move, run))

    def _run_part(self, first: int, last: int, entry: Any, *arguments: Any) -> None:
        entry(self._tensors, *arguments, first, last)

    def _move(self, run: Callable[..., None]) -> None:
        prepared, scale, stages = self._step
        for like, loop in zip(self._likes, self._loops, strict=True):
            around = self._stage_loops(like.dtype)
            run(
                kernels.update,
                loop,
                around,
                self._groups,
                prepared.astype(like.dtype),
                scale,
                stages,
                self._sums,
                like,
            )

    def _stage_loops(self, dtype: Any) -> Any:
        """What runs the stages of the step, compiled when the first of them is asked for."""
        return stage_loops(dtype) if self._step[2] & tiles.STAGES else no_stages(dtype)

    def gradient_sums(self, scale: float) -> None:
        self._run_each(kernels.gradient_sums, self._sums, scale)

    def unit_norms(self, scale: float) -> None:
        self._run_each(kernels.unit_norms, scale)

    def accumulate(self) -> None:
        first, clear = bool(self._clock[MICRO_BATCHES] == 0), bool(self.stages & records.ZERO_GRADS)

        def work() -> None:
            for like in self._likes:
                self._run(kernels.accumulate, first, clear, like)
            self._clock[MICRO_BATCHES] += 1

        done_whole(work)

    def clear_gradients(self) -> None:
        self._run_each(kernels.clear_gradients)

    def _run_each(self, entry: Any, *arguments: Any) -> None:
        def work() -> None:
            for like in self._likes:
                self._run(entry, *arguments, like)

        done_whole(work)

    def _run(self, entry: Any, *arguments: Any) -> None:
        """entry(tensors, …, first, last) over all blocks, in as many ranges as there are threads."""
        n = min(threads.get_num_threads(), self._blocks) if self._cost >= PARALLEL_COST else 1
        cuts = [self._blocks * k // n for k in range(n + 1)] if n else [0, 0]
        parts = [Task(partial(entry, self._tensors, *arguments, first, last)) for first, last in pairwise(cuts[1:])]
        for part in parts:
            try:
                _pool().submit(part.run)
            except (RuntimeError, MemoryError):  # no thread can be started; one that there is may do it all the same
                part.run()
        entry(self._tensors, *arguments, cuts[0], cuts[1])
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
