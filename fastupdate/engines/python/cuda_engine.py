"""The numba-cuda backend: device arrays without the native module, by kernels around the rules' own functions.

It waits for the device after every call. Clipping and the policy on NaN are decided on the host, as on a CPU, and what
elements add up to is settled there.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from fastupdate.arrays import memory
from fastupdate.arrays.device import DeviceArray, Placed
from fastupdate.arrays.frameworks import UNORDERED, Framework
from fastupdate.arrays.memory import Array
from fastupdate.engines import records
from fastupdate.engines.protocol import Engine
from fastupdate.engines.python import cuda_driver as driver
from fastupdate.engines.python import cuda_formulas as formulas
from fastupdate.engines.python import cuda_kernels as kernels
from fastupdate.engines.python import tiles
from fastupdate.engines.python.cuda_phases import make_measure, unchanged
from fastupdate.engines.python.engine import RecordPlan
from fastupdate.engines.python.formula import Formula
from fastupdate.engines.python.measuring import Measured
from fastupdate.engines.python.ranges import Numbers, ranges_of, room
from fastupdate.engines.python.whole import interrupts_deferred
from fastupdate.engines.records import MICRO_BATCHES, Records, Tables
from fastupdate.rules.rule import Rule
from fastupdate.stages import PLACES

NAME = "numba-cuda"


def kernel_of(name: str, rule: Rule, mask: int, dtype: Any, phase: Measured | None) -> Any:
    """The function of a kernel; what it does with elements is written out, because rules differ in their states."""
    formula = Formula(rule, mask, dtype)
    if name == "update":
        chains = {place: formulas.stage_chain(place, dtype) for place in PLACES}
        return kernels.make_update(formulas.rule_update(formula), chains)
    if phase is None:
        return getattr(kernels, name)
    chains = {place: formulas.stage_chain(place, dtype, keep=False) for place in ("gradient", "before", "change")}
    if isinstance(phase.of, int):
        return make_measure(formulas.rule_terms(formula, rule.phases[phase.of]), unchanged, chains, phase)
    change = formulas.rule_update(formula, keep=False) if phase.of.place == "change" else unchanged
    return make_measure(formulas.stage_terms(phase.of, dtype), change, chains, phase)


@cache
def compiled(name: str, rule: Rule, mask: int, dtype: Any, number: int, phase: Measured | None = None) -> Any:
    """A kernel for tensors of one dtype on one device."""
    return driver.compiled(kernel_of(name, rule, mask, dtype, phase), kernels.signature(name, dtype), number)


def host_view(address: int, shape: tuple[int, ...], dtype: Any) -> Array:
    """The array in host memory that a record points to."""
    kind = np.dtype(dtype)
    raw = (ctypes.c_char * (math.prod(shape) * kind.itemsize)).from_address(address)
    return np.frombuffer(raw, kind).reshape(shape)


class NumbaCudaPlan(RecordPlan):
    """The records of a plan, uploaded for every call."""

    def __init__(
        self, rule: Rule, flags: Mapping[str, bool], tables: Tables, framework: Framework, number: int
    ) -> None:
        super().__init__(rule, flags, tables)
        self._framework, self._number = framework, number
        self._foreign: set[Framework] = set()  # frameworks that gradients come from, other than the parameters'
        for phase in self._phases:  # whatever cannot be compiled is known before anything has moved
            self._kernels_of(phase)
        self._compiled("update")

    def adopt(self, params: list[Array], grads: list[Any], start: int, writable: bool) -> int:
        if start == 0:
            found = {g.framework for g in grads if isinstance(g, DeviceArray)}
            self._foreign = found - {self._framework, UNORDERED}
        return super().adopt(params, grads, start, writable)

    def update(self, scale: float, off: int) -> None:
        with interrupts_deferred():
            self.measure(scale, off)
            self.finish()

    def measure(self, scale: float, off: int) -> None:
        super().measure(scale, off)
        with interrupts_deferred():
            self._measure()

    def measure_again(self) -> None:
        with interrupts_deferred():
            self._measure_again()

    def finish(self) -> None:
        watched = bool(self._step[2] & records.MONITOR)
        sums = np.zeros((self._blocks if watched else 1, kernels.COLUMNS))
        with interrupts_deferred():
            self._measure_again()
            self._measure_stages(~tiles.GRADIENTS)
            for dtype, kernel in self._compiled("update"):
                self._launch(kernel, dtype, self._blocks, *self._arguments(dtype, self._step[2]), sums, out=sums)
            if watched:
                self._keep_sums(sums)
            self.advance()

    def _arguments(self, dtype: Any, stages: int) -> tuple[Any, ...]:
        """What a kernel of the step that is under way takes before all else."""
        prepared, scale, _ = self._step
        return self._groups.view(kernels.GROUP), prepared.astype(dtype), self._unit_factors(), scale, stages

    def _kernels_of(self, phase: Measured) -> list[tuple[Any, Any]]:
        return self._compiled("measure", phase) if phase.measures else []

    def _measure_phase(self, phase: Measured, settling: Array, stages: int) -> None:
        """Elements are measured on the device; their sums are fetched, and ranges settled as on a CPU."""
        for dtype, kernel in self._kernels_of(phase):
            self._launch(kernel, dtype, self._blocks, *self._arguments(dtype, stages))
        there = self._tensors.copy()
        sums = self._fetched_sums(phase)
        there["work"] += memory.address(sums) - there["work"][:1]
        fetched = Numbers(there, ranges_of(self._rule))
        self._exchange(fetched, back=False)
        self._settle(there, phase, settling)
        self._exchange(fetched, back=True)

    def _fetched_sums(self, phase: Measured) -> Array:
        """The sums of a phase: all that is in the tensors' room for them."""
        places = self._tensors["work"].astype(np.int64)
        size = int(places[-1] - places[0]) // 8 + room(phase, self._tensors[-1:]) if len(places) else 0
        sums = np.zeros(size)
        if size:
            driver.copy_to_host(sums, int(places[0]), self._number, self._framework.stream(self._number))
        return sums

    def _exchange(self, fetched: Numbers, back: bool) -> None:
        """Fetches the numbers of ranges, or puts them back."""
        count = -(-len(fetched.values) // kernels.LANES)
        for dtype, kernel in self._compiled("exchange")[:1]:
            out = None if back else fetched.values
            self._launch(kernel, dtype, count, fetched.places, fetched.values, back, out=out)

    def move(self, first: int, last: int) -> None:
        raise NotImplementedError("a device moves all tensors at once: see finish")

    def gradient_sums(self, scale: float) -> None:
        sums = np.zeros((self._blocks, kernels.COLUMNS))
        for dtype, kernel in self._compiled("gradient_sums"):
            self._launch(kernel, dtype, self._blocks, sums, scale, out=sums)
        self._keep_sums(sums)

    def unit_norms(self, scale: float) -> None:
        norms = self._units("unit_norms", 2)
        for dtype, kernel in self._compiled("unit_norms"):
            self._launch(kernel, dtype, len(norms), norms, scale, out=norms)

    def accumulate(self) -> None:
        first, clear = bool(self._clock[MICRO_BATCHES] == 0), bool(self.stages & records.ZERO_GRADS)
        with interrupts_deferred():
            for dtype, kernel in self._compiled("accumulate"):
                self._launch(kernel, dtype, self._blocks, first, clear)
            self._clock[MICRO_BATCHES] += 1

    def clear_gradients(self) -> None:
        with interrupts_deferred():
            for dtype, kernel in self._compiled("clear_gradients"):
                self._launch(kernel, dtype, self._blocks)

    def _compiled(self, name: str, phase: Measured | None = None) -> list[tuple[Any, Any]]:
        """A kernel for each type."""
        return [(dtype, compiled(name, self._rule, self._mask, dtype, self._number, phase)) for dtype in self._dtypes]

    def _launch(self, kernel: Any, dtype: Any, blocks: int, *arguments: Any, out: Array | None = None) -> None:
        """Runs a kernel over so many CUDA blocks, and fetches the argument that is `out`."""
        if not blocks:
            return
        for framework in self._foreign:
            driver.wait(framework.stream(self._number), self._number)
        stream = self._framework.stream(self._number)
        every = (*self._records(), *arguments, memory.DTYPES[dtype], dtype.type(0))
        driver.launch(kernel, (blocks, kernels.LANES), self._number, stream, every, out)

    def _records(self) -> tuple[Records, Array]:
        """The tensors' records with numbers in place of host addresses, and the layouts that they number."""
        there = self._tensors.view(kernels.TENSOR).copy()
        layouts = [np.zeros(kernels.LAYOUT_WORDS, np.int64)]  # an array of no rows could not be uploaded
        for column in ("p_layout", "g_layout"):
            for k in np.flatnonzero(there[column]):
                layouts.append(host_view(int(there[column][k]), (kernels.LAYOUT_WORDS,), np.int64))
                there[column][k] = len(layouts)
        if there["unit_norms"].any():
            there["unit_norms"] = there["unit_scale"] = 1 + self._first_units()
        return there, np.stack(layouts)

    def _first_units(self) -> Array:
        """How many units lie before each tensor."""
        addresses: Array = self._tensors["unit_scale"].astype(np.int64)
        return np.asarray((addresses - addresses[0]) // 8)

    def _units(self, column: str, width: int) -> Array:
        """What the records' `unit_norms` or `unit_scale` point to, unit by unit."""
        count = self._first_units() + -(-self._tensors["n"] // np.maximum(self._tensors["unit_length"], 1))
        return host_view(int(self._tensors[column][0]), (int(count.max()), width), np.float64)

    def _unit_factors(self) -> Array:
        clipped = len(self._tensors) and self._tensors["unit_scale"].any()
        return self._units("unit_scale", 1).reshape(-1) if clipped else np.ones(1)

    def _keep_sums(self, sums: Array) -> None:
        for k, name in enumerate(records.SUMS.names or ()):
            self._sums[name] = sums[:, k]


class Backend(Placed):
    """Makes plans for arrays of one framework on one device."""

    NAME = NAME
    WALKS_MEMORY = False

    def make_plan(self, rule: Rule, flags: Mapping[str, bool], tables: Tables) -> Engine:
        """A plan that numba-cuda runs."""
        return NumbaCudaPlan(rule, flags, tables, self.framework, self.device)
