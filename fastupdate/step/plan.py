"""The plan: the records of all tensors that move, and the engine that reads them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import chain, count
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fastupdate.arrays import device, memory, overlap
from fastupdate.arrays.containers import Containers
from fastupdate.arrays.memory import Array
from fastupdate.arrays.place import Place
from fastupdate.engines import records
from fastupdate.engines.choose import Backend
from fastupdate.engines.protocol import Clipper
from fastupdate.engines.records import Records, Tables
from fastupdate.rules.extent import matrix_of
from fastupdate.rules.rule import Rule
from fastupdate.stages import ARRAYS
from fastupdate.step import extents, held
from fastupdate.step.options import Settings
from fastupdate.step.report import RecentSums
from fastupdate.step.rows import Touched, way_of
from fastupdate.step.tensors import ACCUMULATOR, Item, state_kind, written

_NUMBERS = count()
NEVER = 2**63 - 1  # more steps than there will be


class Plan:
    """The records of the items that move. Tensors of one group and step count share a group record.

    unfrozen, items   what may move, and what has a gradient to move by
    written           torch tensors that a step writes
    dtype             the narrowest type that a step computes in, whichever tensors have a gradient
    judges            the device looks at the gradients itself, and nobody waits for it
    partial           some tensors rest
    simple            a step can be taken by one call of the engine
    limit             by which that call clips; None: it does not
    queued            gradients are read after the call
    measured          the totals are those of the gradients at hand already
    sums_of_all       `measure`, where other processes have other parts of the tensors
    units_of_all      writes norms of units, where other processes have other parts of them
    matrices          the tensors that come together to be multiplied, where other processes have rows of them
    """

    def __init__(
        self,
        rule: Rule,
        flags: Mapping[str, bool],
        settings: Settings,
        items: list[Item],
        clock: Array,
        backend: Backend,
        containers: Containers,
    ) -> None:
        self.rule, self.settings, self.flags = rule, settings, flags
        rare = [item for item in items if item.frozen or item.resting or item.is_torch or item.given]
        still = [item for item in rare if item.frozen or item.resting]
        self.unfrozen = [item for item in items if not item.frozen] if still else items
        self.items = [item for item in self.unfrozen if not item.resting] if still else items
        self.held = [pair for pair in written(still) if pair[0].size]
        foreign = [item for item in rare if not (item.frozen or item.resting)]
        reads = backend.reads
        self.arrays = [item.seen_by(reads) if item.is_torch else item.header for item in self.items]
        self.queued = any(isinstance(item.array, device.DeviceArray) for item in self.items[:1])
        self.dtype = held.narrowest({item.array.dtype for item in self.unfrozen})
        self._touched: dict[int, tuple[Touched, int]] = {}  # by gradients of few rows; elements of the whole tensor
        self.number, self.apart_from = next(_NUMBERS), list[int]()  # of plans, with which this one shares no memory
        self._moves = 0  # of gradients, beside those of the engine
        self._apart: tuple[int, int] | None = None  # the moves after which gradients were found to lie apart
        self.layouts: dict[tuple[str, int], Records] = {}  # what p_layout and g_layout point to
        self._make_records()
        self.measured = False
        self.sums_of_all: Callable[[float], Records] | None = None
        self.units_of_all: Callable[[float], None] | None = None
        self.matrices: Any = None
        tables = Tables(self.tensors, self.groups, self.recipe(still), clock, self._sums_of_blocks())
        self.engine = backend.make_plan(rule, flags, tables)
        self._watch(foreign, containers, reads)
        special = settings.needs_sums or settings.monitor or settings.clip_unit_norm is not None
        by_host = settings.outliers is not None or rule.matrix_lasts  # which judges outliers, and waits with matrices
        self.judges = special and self.engine.judges and not by_host
        if self.engine.judges:
            settings.check_sums("arrays in host memory, or backend='numba-cuda'", "others")
        self.partial = len(self.items) < len(self.unfrozen)
        self.limit = settings.limit_alone if self.engine.clips else None
        if self.limit is not None:
            cast(Clipper, self.engine).clip(self.limit)
        plain = not special or self.limit is not None
        self.simple = plain and not self.unseen and not self.partial and rule.matrix is None
        self.own_gradients = all(item.is_torch for item in self.unfrozen)  # which p.grad holds

    def _make_records(self) -> None:
        rows: dict[tuple[int, int], int] = {}
        row_of = [rows.setdefault((item.row, item.t), len(rows)) for item in self.items]
        self.groups = np.zeros(len(rows), records.GROUP)
        self.groups["given"] = [row for row, _ in rows]
        self.groups["t"] = [t for _, t in rows]
        self.tensors = memory.room(len(self.items) * records.TENSOR.itemsize).view(records.TENSOR)
        self._describe(row_of)
        self.totals = np.zeros(len(self.items), records.SUMS)
        self.recent_sums = RecentSums(len(self.items) if self.settings.monitor else 0)

    def _sums_of_blocks(self) -> Records:
        """Room for them, if any are taken."""
        wanted = self.settings.monitor or self.settings.needs_sums
        return np.zeros(int((-(-self.tensors["n"] // records.BLOCK)).sum()) if wanted else 0, records.SUMS)

    def _watch(self, foreign: list[Item], containers: Containers, reads: Callable[[Any], bool]) -> None:
        """Lets the engine look at what is the user's: arrays, states that he brought, containers.

        foreign: the items that move and are not the library's alone
        """
        others = [state.seen_by(reads) for item in foreign for state in item.given.values()]
        self.engine.watch(self.arrays, others, [each for each in containers.contents if each.stored])
        self.written = [tensor for item in foreign for tensor in item.torch_tensors]
        seen = all(reads(tensor) for tensor in self.written) and all(each.stored for each in containers.contents)
        self.unseen = not seen  # the engine cannot look at all of it

    def recipe(self, still: list[Item]) -> Records:
        """How what the user set becomes groups and stages; the same in every step of this plan.

        still: the items that do not move
        """
        rule, s = self.rule, self.settings
        names = list(rule.hypers)
        recipe = np.zeros(1, records.RECIPE)
        recipe["next_thaw"] = min((math.ceil(min(i.frozen_until, NEVER)) for i in still if i.frozen), default=NEVER)
        recipe["lookahead_every"], recipe["lookahead_weight"] = s.lookahead or (0, 0.0)
        recipe["hypers"], recipe["lr"] = len(names), names.index("lr")
        recipe["weight_decay"] = names.index("weight_decay") if "weight_decay" in names else -1
        always = {records.ZERO_GRADS: s.zero_grads, records.MONITOR: s.monitor}
        kept = sum(stage.bit for stage in ARRAYS.values() if s.asks_for(stage))
        recipe["always"] = kept + sum(stage for stage, on in always.items() if on)
        recipe["outside"] = s.has_extra_decay(rule)
        recipe["flags"] = sum(1 << k for k, on in enumerate(s.flags_on(rule)) if on)
        recipe["largest"], _, recipe["vanishing"] = held.limits(self.dtype)
        recipe["before"] = rule.phases_before
        recipe["rows"] = way_of(rule, s)
        recipe["eps"] = sum(1 << k for k, name in enumerate(names) if name.startswith("eps"))
        return recipe

    def _describe(self, rows: list[int]) -> None:
        seen = memory.headers([item.array for item in self.items])
        self.tensors["p"] = seen["address"]
        self.tensors["n"] = seen["n"]
        self.tensors["dtype"] = seen["dtype"]
        self.tensors["group"] = rows
        self._point_to_slots()
        for k in np.flatnonzero(~seen["direct"]).tolist():
            item = self.items[k]
            self.tensors["p_layout"][k] = self.layout("p", k, item.in_memory(item.array))
            self.tensors["order"][k] = self.layout("order", k, item.array) if item.order else 0
        self.tensors["samples"] = 1
        self.tensors["scale"] = 1.0
        self.tensors["momentum"] = self.rule.states.index(self.rule.momentum) if self._has_momentum() else -1
        self.tensors["g_dtype"] = self.tensors["dtype"]
        if self.settings.shadow is not None:
            self.tensors["shadow_dtype"] = memory.STORAGE[self.settings.shadow].code
        self.tensors["first_block"] = records.first_blocks(self.tensors["n"])
        counts = seen["units"]
        self.tensors["unit_length"] = np.maximum(self.tensors["n"] // np.maximum(counts, 1), 1)
        if self.settings.clip_unit_norm is not None:
            self._make_units(counts)
        if (self.rule.phases or self.settings.measuring) and self.items:
            self._make_room_for_sums()

    def _make_room_for_sums(self) -> None:
        shapes = [item.array.shape for item in self.items]
        self.tensors["rows"], self.tensors["columns"] = np.array([matrix_of(shape) for shape in shapes]).T
        stages = self.settings.measuring
        sizes = np.array([extents.room_for_sums(self.rule, stages, shape) for shape in shapes], np.int64)
        [self._work] = device.zeros_like([self.items[0].array], ["float64"], [None], [(int(sizes.sum()),)])
        self.tensors["work"] = memory.address(self._work) + 8 * records.counted_before(sizes)

    def _point_to_slots(self) -> None:
        states = [state_kind(name) for name in self.rule.states]
        kinds = [*states, *[""] * (records.MAX_STATES - len(states)), *records.ROLES]
        for there in ([item.slots for item in self.items], [item.passing for item in self.items]):
            present = set(chain.from_iterable(there))
            for column in (k for k, kind in enumerate(kinds) if kind in present):
                found = memory.addresses([arrays.get(kinds[column]) for arrays in there])
                self.tensors["slot"][:, column] = found

    def _has_momentum(self) -> bool:
        return bool(self.items) and self.rule.momentum in self.items[0].states

    def _make_units(self, counts: NDArray[np.int64]) -> None:
        first = records.counted_before(counts)
        self.unit_norms = np.zeros((int(counts.sum()), 2))
        self.unit_scale = np.ones(int(counts.sum()))
        self.unit_tensor = np.repeat(np.arange(len(counts)), counts)
        self.tensors["unit_norms"] = memory.address(self.unit_norms) + 16 * first
        self.tensors["unit_scale"] = memory.address(self.unit_scale) + 8 * first

    def point_to_accumulators(self) -> None:
        """Notes where the accumulators are."""
        found = [item.slots.get(ACCUMULATOR) for item in self.items]
        self.tensors["slot"][:, records.ACCUMULATOR] = memory.addresses(found)

    def layout(self, column: str, k: int, array: Array) -> int:
        """The address of a record of how an array lies in memory; 0 if it is contiguous and aligned."""
        if memory.is_direct(array):
            self.layouts.pop((column, k), None)
            return 0
        self.layouts[column, k] = records.layout_of(array)
        return memory.address(self.layouts[column, k])

    @property
    def takes_held(self) -> bool:
        """Whether a step on gradients that torch's parameters hold is all in one call."""
        return self.simple and self.own_gradients and gil_enabled()

    @property
    def counts(self) -> NDArray[np.int64]:
        """The steps that each tensor has taken."""
        counts: NDArray[np.int64] = self.groups["t"][self.tensors["group"]]
        return counts

    @cached_property
    def names(self) -> NDArray[np.object_]:
        """Dotted names of the tensors."""
        names = np.empty(len(self.items), object)
        names[:] = [item.name for item in self.items]
        return names

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Elements of the tensors, for reports, which may outlive the records."""
        return self.tensors["n"].copy()

    @cached_property
    def _written(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], list[tuple[Array, str]]]:
        """First and one-past-last byte of every array that a step writes, and the arrays with their names."""
        owned = [pair for pair in written(self.items) if pair[0].size]
        spans = np.array([overlap.bounds(array) for array, _ in owned], np.uint64).reshape(-1, 2)
        return spans[:, 0].copy(), spans[:, 1].copy(), owned

    def neighbours(self, begin: int, end: int) -> list[tuple[Array, str]]:
        """The arrays that a step writes within these bytes, gradients aside, with their names."""
        low, high, owned = self._written
        return [owned[k] for k in np.flatnonzero((low < end) & (high > begin))]

    def point_to_gradient(self, k: int, array: Array, *, samples: bool) -> None:
        """Notes where tensor k's gradient is, or its samples along the first axis."""
        self._moves += 1
        sample = array[0] if samples else array
        row = self.tensors[k : k + 1]
        row["g"] = memory.address(array)
        row["g_dtype"] = memory.code_of(array.dtype)
        item = self.items[k]
        row["g_layout"] = self.layout("g", k, item.in_memory(sample))
        row["g_order"] = self.layout("g_order", k, sample) if item.order else 0
        row["samples"] = len(array) if samples else 1
        row["sample_stride"] = array.strides[0] if samples else 0

    def point_to_rows(self, k: int, touched: Touched) -> None:
        """Notes the rows that tensor k's gradient touches, for one step (see `forget_rows`)."""
        self.point_to_gradient(k, touched.values, samples=False)
        row = self.tensors[k]
        self._touched[k] = touched, row["n"]
        row["scale"], row["g_layout"], row["touched"] = 1.0, 0, memory.address(touched.record)
        if touched.lazy:
            row["n"] = touched.elements

    def check_whole(self) -> None:
        """ValueError where only some rows of a tensor are to move: accumulators are whole."""
        touched = self.tensors["touched"].tolist()
        k = next((k for k, record in enumerate(touched) if record), None)
        if k is not None and self.settings.lazy_rows(self.rule):
            place = Place(self.rule.name, self.items[k].place.argument.replace("params", "grads", 1))
            place.fail(ValueError, "rows='dense', or the rows of all micro-batches in one step", "those of a lazy one")

    def recount(self) -> None:
        """Takes in how many elements there are, where only some rows of a tensor move."""
        if any(touched.lazy for touched, _ in self._touched.values()):
            self.engine.recount()

    def forget_rows(self) -> None:
        """Makes the tensors whole again, whose gradients touched rows."""
        for k, (_, n) in self._touched.items():
            row = self.tensors[k]
            row["n"], row["touched"], row["g"] = n, 0, 0  # where they were says nothing of the next gradient
        self.recount()
        self._touched.clear()
        self.engine.forget_rows()

    def zeroing_may_harm(self) -> bool:
        """Whether a gradient might share memory with another one or with a frozen tensor; False is certain."""
        moves = (self._moves, self.engine.moves)
        if moves == self._apart:
            return False
        if self.tensors["g_layout"].any() or (self.tensors["samples"] > 1).any():
            return True
        rows = self.tensors[self.tensors["n"] > 0]
        ends = rows["g"] + (rows["n"] * memory.item_sizes(rows["g_dtype"])).astype(np.uint64)
        held = np.array([overlap.bounds(array) for array, _ in self.held], np.uint64).reshape(-1, 2)
        spans = np.concatenate([np.stack([rows["g"], ends], axis=1), held])
        spans = spans[np.argsort(spans[:, 0].copy())]  # as in overlap.py
        if (spans[1:, 0] < spans[:-1, 1]).any():
            return True
        self._apart = moves
        return False

    def measure(self, unit: float = 1.0) -> Records:
        """The sums of each tensor's gradients, which are in units of `unit`.

        Of those that were measured as they arrived there are only sums in units of 1; ValueError where float64 does not
        hold them.
        """
        if self.measured and (unit == 1.0 or self.sums_of_all is None):
            if unit != 1.0 and not self.totals["nonfinite"].any():
                expected = "gradients of a norm below 1e154, for they were summed as they arrived"
                Place(self.rule.name, "grads").fail(ValueError, expected, "larger ones")
            return self.totals
        totals = self.totals if unit == 1.0 else np.zeros_like(self.totals)
        if self.sums_of_all is not None:
            totals[:] = self.sums_of_all(unit)
        else:
            self.engine.gradient_sums(1 / unit)
            self.engine.fold(totals)
        return totals

    def measure_units(self, unit: float = 1.0) -> Array:
        """The norms of gradient and weight of each unit that is clipped, in units of `unit`."""
        self.engine.unit_norms(1 / unit)
        if self.units_of_all is not None:
            self.units_of_all(unit)
        return self.unit_norms

    def keep_times(self) -> None:
        """Writes the step counts back to the items, for the next assembly."""
        times = self.groups["t"].tolist()
        for item, row in zip(self.items, self.tensors["group"].tolist(), strict=True):
            item.t = times[row]


def gil_enabled() -> bool:
    """Whether at most one thread runs Python at a time."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()
