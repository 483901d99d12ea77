"""The numba-cuda backend: device arrays without the native module, by kernels around the rules' own functions.

It waits for the device after every call, and clipping and the policy on NaN are decided on the host, as on a CPU.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from fastupdate.arrays import memory
from fastupdate.arrays.device import DeviceArray, Framework, Placed
from fastupdate.arrays.memory import Array
from fastupdate.arrays.place import Place
from fastupdate.engines import records
from fastupdate.engines.protocol import Engine
from fastupdate.engines.python import cuda_driver as driver
from fastupdate.engines.python import cuda_kernels as kernels
from fastupdate.engines.python.engine import RecordPlan
from fastupdate.engines.python.formula import SUBSTITUTES as ON_NUMBERS
from fastupdate.engines.python.formula import compile_formula, cube_roots
from fastupdate.engines.python.stages import arguments, formula, result, slot
from fastupdate.engines.python.whole import interrupts_deferred
from fastupdate.engines.records import MICRO_BATCHES, Records, Tables
from fastupdate.rules import scalar
from fastupdate.rules.rule import Rule
from fastupdate.stages import PLACES, STAGES

NAME = "numba-cuda"

# What rules call that numba-cuda lacks.
SUBSTITUTES = {
    **ON_NUMBERS,
    scalar.sqrt: driver.square_root,
    scalar.maximum: kernels.maximum,
    scalar.absolute: abs,
    scalar.positive_part: kernels.positive_part,
}
SUBSTITUTES[scalar.cbrt] = cube_roots(kernels.device, SUBSTITUTES)


_APPLY = """
def apply(t, scalars, at, g, p):
    s = Scalars({scalars})
    absent = cast(0.0, g)
    delta, {states} = update(flags, s, g, p, {values})
    {stores}
    return delta
"""


def rule_update(rule: Rule, flags: Mapping[str, bool], dtype: Any) -> Any:
    """The kernel of one step; how a rule meets arrays is written out because rules differ in the number of states."""
    kept = rule.kept(flags)
    scalars = type(rule.prepare(dict.fromkeys(rule.hypers, 0.5), 1))
    loads = [f"load(t.slot[{k}] + at, g)" if name in kept else "absent" for k, name in enumerate(rule.states)]
    stores = [f"store(t.slot[{k}] + at, {name})" for k, name in enumerate(rule.states) if name in kept]
    source = _APPLY.format(
        scalars=", ".join(f"scalars[t.group, {k}]" for k in range(len(scalars._fields))),
        states=", ".join(rule.states),
        values=", ".join(loads),
        stores="; ".join(stores),
    )
    update = compile_formula(rule.update, dtype, kernels.device, SUBSTITUTES)
    scope: dict[str, Any] = {"Scalars": scalars, "flags": rule.flag_tuple(flags), "update": update}
    scope |= {"load": driver.load, "store": driver.store, "cast": kernels.cast}
    exec(source, scope)
    return kernels.make_update(kernels.device(scope["apply"]), {place: stage_chain(place, dtype) for place in PLACES})


CHANGED = {"gradient": "g", "before": "p", "change": "change", "after": "p", "copy": ""}  # what x stands for


def stage_chain(place: str, dtype: Any) -> Any:
    """What the stages of a place make of an element."""
    scope: dict[str, Any] = {"load": driver.load, "store": driver.store, "cast": kernels.cast}
    source = "def run(t, group, stages, at, g, p, x):\n"
    for stage in (stage for stage in STAGES if stage.place == place and not stage.measure):
        scope |= formula(stage, dtype, kernels.device, SUBSTITUTES)
        numbers = ", ".join(f"cast(group.{number}, p)" for number in stage.numbers)
        array = f"t.slot[{slot(stage)}] + at" if stage.array else ""
        given = {"g": "g", "p": "p", "own": f"load({array}, p)", CHANGED[place]: "x"}
        source += f"    if stages & {stage.bit}:\n        s = {stage.name}_numbers({numbers})\n"
        source += f"        {result(stage, 'x', 'kept')} = {stage.name}({arguments(stage, stage.element, given)})\n"
        source += f"        store({array}, kept)\n" if stage.array else ""
    exec(source + "    return x\n", scope)
    return kernels.device(scope["run"])


@cache
def compiled(name: str, rule: Rule, mask: int, dtype: Any, number: int) -> Any:
    """A kernel for tensors of one dtype on one device; only `update` depends on the rule and its flags."""
    flags = {flag: bool(mask >> k & 1) for k, flag in enumerate(rule.flags)}
    function = rule_update(rule, flags, dtype) if name == "update" else getattr(kernels, name)
    return driver.compiled(function, kernels.signature(name, dtype), number)


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
        if rule.phases:
            Place(rule.name, "backend").fail(
                ValueError, "'cuda', for a rule that measures before it updates", repr(NAME)
            )
        self._framework, self._number = framework, number
        self._foreign: set[Framework] = set()  # frameworks that gradients come from, other than the parameters'
        self._compiled("update")  # whatever cannot be compiled is known before anything has moved

    def adopt(self, params: list[Array], grads: list[Any], start: int, writable: bool) -> int:
        if start == 0:
            self._foreign = {g.framework for g in grads if isinstance(g, DeviceArray)} - {self._framework}
        return super().adopt(params, grads, start, writable)

    def hold(self, params: list[Array]) -> None:
        """torch's gradients always need a closer look."""

    def update(self, scale: float, off: int) -> None:
        with interrupts_deferred():
            self.measure(scale, off)
            self.finish()

    def finish(self) -> None:
        (prepared, scale, stages), factors = self._step, self._unit_factors()
        watched = bool(stages & records.MONITOR)
        sums = np.zeros((self._blocks if watched else 1, kernels.COLUMNS))
        with interrupts_deferred():
            for dtype, kernel in self._compiled("update"):
                arguments = (self._groups.view(kernels.GROUP), prepared.astype(dtype), factors, scale, stages, sums)
                self._launch(kernel, dtype, self._blocks, *arguments, out=sums)
            if watched:
                self._keep_sums(sums)
            self.advance()

    def measure_again(self) -> None:
        """There are no phases."""

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

    def _compiled(self, name: str) -> list[tuple[Any, Any]]:
        return [(dtype, compiled(name, self._rule, self._mask, dtype, self._number)) for dtype in self._dtypes]

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
