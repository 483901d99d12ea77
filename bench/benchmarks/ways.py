"""What the tables of bench.calls, bench.layouts and bench.loops are about, each over time."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import numpy as np

from . import axes  # noqa: F401  # ImportError if Numba would be measured in silence

sys.path.append(str(Path(__file__).parents[2]))  # after what is installed: the clone's own fastupdate is not compiled

from bench import calls, layouts, loops
from bench.contestants import Contestant
from bench.workloads import WORKLOADS

THREADS = os.cpu_count() or 1


def _made(work: calls.Work) -> Contestant:
    """Ready for a step; NotImplementedError, which skips the benchmark, without the package that it needs."""
    workload = WORKLOADS[work.workload]
    problem = work.ours.problem(workload)
    if problem:
        raise NotImplementedError(problem)
    contestant = work.ours(workload, THREADS)
    contestant.before(2)
    contestant.step()
    return contestant


class Calls:
    """A way of calling, as often as it takes to be timed."""

    works: ClassVar = {f"{w.recipe}, {w.workload}": w for w in calls.WORKS if not WORKLOADS[w.workload].fresh}
    params = (list(works),)
    param_names = ("way",)

    def setup(self, way: str) -> None:
        self.contestant = _made(self.works[way])

    def time_step(self, _: str) -> None:
        self.contestant.step()


class FreshCalls(Calls):
    """A way of calling with gradient arrays that are new objects: one step."""

    works: ClassVar = {f"{w.recipe}, {w.workload}": w for w in calls.WORKS if WORKLOADS[w.workload].fresh}
    params = (list(works),)
    number, warmup_time = 1, 0


class Layouts:
    """A step over arrays that lie in other orders than C's."""

    works: ClassVar = {
        f"{option}, {name}: {', '.join(pair)}": (name, pair, option) for name, pair, option in layouts.WORKS
    }
    params = (list(works),)
    param_names = ("layout",)

    def setup(self, layout: str) -> None:
        name, pair, option = self.works[layout]
        self.contestant = layouts.laid_out(*pair, layouts.OPTIONS.get(option, {}))(WORKLOADS[name], THREADS)
        self.contestant.step()

    def time_step(self, _: str) -> None:
        self.contestant.step()


class Loops:
    """A step of two weights after a product of matrices, alone or beside a process that keeps one core busy."""

    params = ([False, True],)
    param_names = ("busy",)
    number, warmup_time = 1, 0

    def setup(self, busy: bool) -> None:
        self.beside = ExitStack()
        self.beside.enter_context(loops.neighbour(busy))
        self.loop = loops.Loop(loops.WORK["784×512 and 512×256"], None)
        a = np.ones((256, 256), np.float32)
        self.loop.turn(a, 80)  # teams look around
        a @ a

    def teardown(self, _: bool) -> None:
        self.beside.close()

    def time_step(self, _: bool) -> None:
        self.loop.opt.step()
