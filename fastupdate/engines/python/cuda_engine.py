"""The numba-cuda backend: device arrays without the native module, by kernels around the rules' own functions.

It waits for the device after every call. Clipping and the policy on NaN are decided on the host, as on a CPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fastupdate.arrays.device import DeviceArray, Placed
from fastupdate.arrays.frameworks import UNORDERED, Framework
from fastupdate.arrays.memory import Array
from fastupdate.engines import records
from fastupdate.engines.protocol import Engine
from fastupdate.engines.python import cuda_driver as driver
from fastupdate.engines.python import cuda_kernels, kernels, loops, tiles
from fastupdate.engines.python.engine import RecordPlan, Span
from fastupdate.engines.python.whole import interrupts_deferred
from fastupdate.engines.records import Records, Tables
from fastupdate.rules.rule import Rule

NAME = "numba-cuda"


def host_view(address: int, size: int) -> Array:
    """The bytes in host memory that a record points to."""
    found: Array = np.frombuffer((ctypes.c_char * size).from_address(address), np.uint8)  # type: ignore[call-overload]
    return found


class NumbaCudaPlan(RecordPlan):
    """The records of a plan, uploaded for every call."""

    target = cuda_kernels.DEVICE

    def __init__(
        self, rule: Rule, flags: Mapping[str, bool], tables: Tables, framework: Framework, number: int
    ) -> None:
        self._framework, self._number = framework, number
        self._foreign: set[Framework] = set()  # frameworks that gradients come from, other than the parameters'
        super().__init__(rule, flags, tables)

    def adopt(self, params: list[Array], grads: list[Any], start: int, writable: bool) -> int:
        if start == 0:
            found = {g.framework for g in grads if isinstance(g, DeviceArray)}
            self._foreign = found - {self._framework, UNORDERED}
        return super().adopt(params, grads, start, writable)

    def move(self, first: int, last: int) -> None:
        raise NotImplementedError("a device moves all tensors at once: see finish")

    def _whole(self, work: Callable[[], None]) -> None:
        with interrupts_deferred():
            work()

    def _stage_loops(self, dtype: Any) -> Any:
        """A kernel is compiled once, for steps with stages and without."""
        return loops.stage_loops(self.target, dtype)

    def _kernel(self, work: Any, dtype: Any, functions: tuple[Any, ...]) -> Any:
        return cuda_kernels.compiled(work, dtype, functions, self._number)

    def _run(
        self, work: Any, dtype: Any, functions: tuple[Any, ...], *arguments: Any, span: Span | None = None
    ) -> None:
        """On a CUDA block for each block."""
        if not self._blocks:
            return
        for framework in self._foreign:
            driver.wait(framework.stream(self._number), self._number)
        stream, number = self._framework.stream(self._number), self._number
        mirrors = Mirrors(self._tensors, number, stream)
        found = next((a for a in arguments if a is self._sums), None)
        kernel, grid = self._kernel(work, dtype, functions), (self._blocks, cuda_kernels.LANES)
        driver.launch(kernel, grid, number, stream, (mirrors.tensors, *arguments), found)
        if work is kernels.unit_norms:
            mirrors.fetch("unit_norms")


class Mirrors:
    """What records point to in host memory, on a device.

    tensors  the records, with addresses there
    """

    def __init__(self, tensors: Records, number: int, stream: int) -> None:
        self.tensors, self._number, self._stream = tensors.view(tiles.TENSOR).copy(), number, stream
        self._there: dict[str, tuple[driver.Memory, Array]] = {}
        for column in ("p_layout", "g_layout"):
            strided = np.flatnonzero(self.tensors[column])
            layouts = [host_view(int(address), records.LAYOUT.itemsize) for address in self.tensors[column][strided]]
            if layouts:
                self._copy(column, np.concatenate(layouts))
                places = records.LAYOUT.itemsize * np.arange(len(strided))
                self.tensors[column][strided] = self._address(column) + places
        units = -(-tensors["n"] // np.maximum(tensors["unit_length"], 1))
        for column, width in (("unit_scale", 8), ("unit_norms", 16)):
            first = int(tensors[column][0]) if len(tensors) else 0
            if first:
                ends = self.tensors[column] + width * units
                self._copy(column, host_view(first, int(ends.max()) - first))
                self.tensors[column] += self._address(column) - first

    def _copy(self, column: str, host: Array) -> None:
        self._there[column] = driver.Memory(host.nbytes, self._number), host
        driver.copy_from_host(self._address(column), host, self._number, self._stream)

    def _address(self, column: str) -> int:
        return self._there[column][0].address

    def fetch(self, column: str) -> None:
        """What a kernel has written."""
        memory, host = self._there[column]
        driver.copy_to_host(host, memory.address, self._number, self._stream)


class Backend(Placed):
    """Makes plans for arrays of one framework on one device."""

    NAME = NAME
    WALKS_MEMORY = False

    def make_plan(self, rule: Rule, flags: Mapping[str, bool], tables: Tables) -> Engine:
        """A plan that numba-cuda runs."""
        return NumbaCudaPlan(rule, flags, tables, self.framework, self.device)
