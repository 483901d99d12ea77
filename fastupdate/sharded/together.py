"""Steps that depend on sums over tensors of which each rank has a range, to the bits of steps of whole tensors.

The engine here stands before the one of the parts. It has records of the whole tensors, whose addresses are such that
what is here lies where it would in the whole one: so elements, blocks, rows and units have the numbers that they have
there. What a phase of the step (or a stage, or monitoring) adds up is measured in the cells that begin here, told to
all ranks that share the tensor, and settled by each for the whole tensor: numbers of ranges of elements are there on
every rank. Elements are moved where they are. Tensors that are in boxes have records of two kinds (boxes.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastupdate.arrays import memory
from fastupdate.arrays.memory import Array
from fastupdate.engines import records
from fastupdate.engines.records import BLOCK, Given, Records, Tables
from fastupdate.rules.extent import SIDES, Shape, matrix_of, shape_of
from fastupdate.sharded.boxes import Boxes, Numbers
from fastupdate.sharded.cells import Cell, Values, cut, grids_of
from fastupdate.sharded.elements import Elements, Parts, in_parts
from fastupdate.sharded.ranges import Range
from fastupdate.sharded.telling import Group, Known, Telling
from fastupdate.sharded.words import Words
from fastupdate.stages import ARRAYS, at
from fastupdate.step import extents
from fastupdate.step.stepper import Stepper
from fastupdate.step.tensors import state_kind

GRIDS = 0, 1  # of blocks, and of chunks of rows
OF_GRADIENT = at("gradient")  # stages whose sums come before those of the rule; others' come after
PLACED = ("g", "g_layout", "g_order", "g_dtype", "samples", "sample_stride", "scale")  # in each step


class Phase(NamedTuple):
    """A phase of the rule, or what a stage measures: what the engine calls it by, and what it adds up."""

    phase: int
    stage: int
    largest: list[bool]  # of each sum, whether it is a maximum
    by_rows: bool
    by_columns: bool
    measures: bool


def phases_of(stepper: Stepper) -> list[Phase]:
    """Those of a step, stages aside."""
    return [
        Phase(
            k,
            0,
            [total.largest for total in phase.sums.values()],
            phase.by_rows,
            bool(phase.summed("column")),
            phase.measure is not None,
        )
        for k, phase in enumerate(stepper.rule.phases)
    ]


Arrays = dict[str | int, Array]  # of one tensor, what is here of them, flat unless a box: "p", "g", and by slot


def check_backend(stepper: Stepper) -> None:
    """ValueError for an engine that does not take steps of parts."""
    if stepper.backend.NAME != "native":
        expected = "'native', where a step depends on sums over what ranks share"
        stepper.place("backend").fail(ValueError, expected, repr(stepper.backend.NAME))


class Lent(Protocol):
    """The cells that this rank owns and others have parts of, in its memory.

    cells     they
    tensors   TENSOR, as of the whole tensors: a row for each cell
    """

    cells: list[Cell]
    tensors: Records


class Together(ABC):
    """The engine of a plan whose tensors are cut; what it does not do itself, the engine of the parts does."""

    def __init__(self, stepper: Stepper, shapes: list[Shape], groups: list[Group]) -> None:
        """shapes: of whole tensors."""
        check_backend(stepper)
        self._stepper, self._plan, self._groups = stepper, stepper.plan, groups
        self._parts_engine = stepper.plan.engine
        self._shapes = shapes
        sizes = [prod(shape) for shape in shapes]
        here = {k: r for group in groups for k, r in group.own().items()}
        self._shared = [*here]
        self._in_boxes = {k: boxes[group.rank] for group in groups for k, boxes in group.boxes.items()}
        here |= {k: Range(0, 0, sizes[k]) for k in self._in_boxes}
        self._here = [here.get(k, Range(0, n, n)) for k, n in enumerate(sizes)]
        self._phases = phases_of(stepper)
        self._stages = [
            Phase(0, stage.bit, [False] * len(stage.sums), stage.by_rows, False, True)
            for stage in stepper.settings.measuring
        ]
        self._describe(sizes)
        self._grids = [grids_of(shape) for shape in self._shapes]
        self._borrowed = self._borrow()
        self._lay_out()
        self._tellings = {id(phase): self._telling(phase) for phase in self._summing()}
        self._watched = self._watching() if stepper.settings.monitor else []
        vars(self._plan).update(sizes=np.array(sizes, np.int64), engine=self, simple=False)
        stepper.engine = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parts_engine, name)

    # -- what a library of messages does ------------------------------------------------------------------------------

    @abstractmethod
    def _gather(self, handle: Any, sent: Values, told: Values) -> None:
        """Tells the ranks of a group the message of this one, and takes in those of all: told[rank]."""

    def _borrow(self) -> list[Lent]:
        """Cells that ranks have in common, by group."""
        return []

    @abstractmethod
    def _begin(self) -> None:
        """Copies what others have of cells that are measured here; before anything else of a step."""

    @abstractmethod
    def _gradient(self, k: int) -> tuple[int, int, int]:
        """Where what is here of a gradient is, in C order: address, bytes of an element, code of its type."""

    @abstractmethod
    def _zero(self) -> None:
        """Sets the gradients to 0, as the user has them."""

    # -- records ------------------------------------------------------------------------------------------------------

    def _describe(self, sizes: list[int]) -> None:
        plan = self._plan
        self._tensors = memory.room(len(sizes) * records.TENSOR.itemsize).view(records.TENSOR)
        self._tensors[:] = plan.tensors
        self._tensors["n"] = sizes
        self._tensors["first_block"] = records.first_blocks(self._tensors["n"])
        self._tensors["rows"], self._tensors["columns"] = np.array([matrix_of(s) for s in self._shapes]).T
        self._arrays: dict[int, Arrays] = {}
        self._numbers: list[Array] = []  # of ranges of whole tensors, which no step needs afterwards
        in_boxes = [numbers for k in self._shared for numbers in self._place(k) if k in self._in_boxes]
        blocks = int((-(-self._tensors["n"] // BLOCK)).sum())
        self._boxes = Boxes(plan.tensors, self._in_boxes, in_boxes, blocks)
        stages = self._stepper.settings.measuring
        rooms = [extents.room_for_sums(self._stepper.rule, stages, shape) for shape in self._shapes]
        self._work = [np.zeros(room) for room in rooms]
        self._tensors["work"] = memory.addresses(self._work)
        self._sums = np.zeros(self._boxes.blocks if self._stepper.settings.monitor else 0, records.SUMS)
        self._watched_sums = self._sums[:blocks]
        tables = Tables(self._tensors, plan.groups, plan.recipe(self._stepper.items), self._stepper.clock, self._sums)
        self._engine: Any = self._stepper.backend.make_plan(self._stepper.rule, self._stepper.flags, tables)
        self._engine.take(self._stepper.hypers.given)

    def _place(self, k: int) -> list[Numbers]:
        """Lets a record find what is here of the arrays of a tensor where it would be in whole ones; the numbers of
        ranges."""
        item, row, begin = self._plan.items[k], self._tensors[k : k + 1], self._here[k].begin
        shape = self._shapes[k]
        row["p_layout"] = row["order"] = row["g_layout"] = row["g_order"] = 0
        row["unit_length"] = max(prod(shape[1:]) if len(shape) > 1 else prod(shape), 1)
        kinds = {
            state_kind(name): (slot, extent) for slot, (name, extent) in enumerate(self._stepper.rule.extents.items())
        }
        for slot, role in enumerate(records.ROLES, records.MAX_STATES):
            kinds[role] = slot, ARRAYS[role].state.per if role in ARRAYS else "element"
        arrays: Arrays = {"p": self._flat(k, item.array)}
        numbers = []
        for kind, array in (*item.slots.items(), *item.passing.items()):
            slot, extent = kinds[kind]
            if extent in SIDES:  # of which no phase knows
                continue
            if extent == "element":
                arrays[slot] = self._flat(k, array)
                row["slot"][:, slot] = shifted(memory.address(array), begin * array.itemsize)
                continue
            if kind in item.passing or array.shape != shape_of(extent, shape):
                array = np.zeros(shape_of(extent, shape))
                self._numbers.append(array)
            row["slot"][:, slot] = memory.address(array)
            here = np.zeros(shape_of(extent, item.array.shape))
            numbers.append(Numbers(k, slot, extent, array, here))
        row["p"] = shifted(memory.address(item.array), begin * item.array.itemsize)
        arrays.pop(records.SHADOW, None)
        arrays["g"] = arrays["p"]
        self._arrays[k] = arrays
        return numbers

    def _flat(self, k: int, array: Array) -> Array:
        if k in self._in_boxes:
            return array
        if not memory.is_direct(array) or self._plan.items[k].order is not None:
            self._plan.items[k].place.fail(ValueError, "a contiguous tensor, for ranks share it", "another")
        return array.reshape(-1)

    # -- cells --------------------------------------------------------------------------------------------------------

    def _cells(self, group: Group) -> Iterator[Cell]:
        """Those that ranks of a group have in common."""
        grids = {int(phase.by_rows) for phase in self._summing()} | ({0} if self._settings.monitor else set())
        yield from group.wholes(self._shapes) if grids else ()
        for grid in sorted(grids):
            for place, k in enumerate(group.tensors):
                yield from cut(k, grid, self._grids[k][grid], [of_rank[place] for of_rank in group.ranges])

    @property
    def _settings(self) -> Any:
        return self._stepper.settings

    def _summing(self) -> list[Phase]:
        return [phase for phase in (*self._phases, *self._stages) if phase.largest]

    def _lay_out(self) -> None:
        """Finds what is worked on in which order: of what is measured several times, the last time counts."""
        here = [[(k, r, self._grids[k][grid]) for k, r in enumerate(self._here)] for grid in GRIDS]
        self._moved = [Elements(self._tensors, [*map(in_parts, here)]), self._boxes.elements()]
        self._owned, others = [], []
        for lent in self._borrowed:
            self._owned.append(Elements(lent.tensors, [self._parts_of(lent.cells, g, {None, g}) for g in GRIDS]))
            along = [self._parts_of(lent.cells, grid, {1 - grid}) for grid in GRIDS]  # for their states' sake
            others.append(Elements(lent.tensors, along))
        self._measured = [*others, *self._moved, *self._owned]

    def _parts_of(self, cells: list[Cell], grid: int, which: set[int | None]) -> Parts:
        """Cells that are those of some grids, in a phase that goes by one."""
        rows = [(row, cell, self._grids[cell.tensor][grid]) for row, cell in enumerate(cells) if cell.grid in which]
        return in_parts((row, Range(cell.begin, cell.end, self._here[cell.tensor].n), of) for row, cell, of in rows)

    def _telling(self, phase: Phase) -> list[Telling]:
        return [
            Telling(
                self._gather,
                group,
                [self._known(phase, group, r) for r in range(len(group.ranges))],
                phase.largest,
            )
            for group in self._groups
        ]

    def _known(self, phase: Phase, group: Group, rank: int) -> list[Known]:
        """The numbers that a rank knows after a phase."""
        terms, found = len(phase.largest), []
        for k, r in zip(group.tensors, group.ranges[rank], strict=True):
            if not r.n:
                continue
            blocks, chunks = self._grids[k]
            grid = chunks if phase.by_rows else blocks
            first, last = grid.next(r.begin), grid.next(r.end)
            work = self._work[k][terms:]
            if not phase.by_rows:
                found.append(Known(work[: terms * -(-r.n // BLOCK)].reshape(-1, terms), first, last, blocks.alone))
                continue
            rows, columns = matrix_of(self._shapes[k])
            count = r.n // columns
            found.append(Known(work[: count * terms].reshape(-1, terms), chunks.row(first), chunks.row(last), 0))
            if phase.by_columns:
                below = work[count * terms :][: count // rows * chunks.alone * terms * columns]
                found.append(Known(below.reshape(-1, terms * columns), first, last, chunks.alone))
        return found

    # -- the step -----------------------------------------------------------------------------------------------------

    def take(self, given: Given) -> None:
        """As the engine of the parts, whose groups the other one shares."""
        self._parts_engine.take(given)
        self._engine.take(given)

    def derive(self) -> bool:
        """Likewise."""
        return self._parts_engine.derive() and bool(self._engine.derive())

    def update(self, scale: float, off: int) -> None:
        """One step."""
        self.measure(scale, off)
        self.finish()

    def measure(self, scale: float, off: int) -> None:
        """What comes before any tensor moves, but for phases that come after products of matrices."""
        self._point_to_gradients()
        self._boxes.follow()
        self._begin()
        self._on = self._engine.stages & ~off
        self._engine.prepare(scale, off)
        self._measure_stages(OF_GRADIENT)
        self._run(self._phases[: self._stepper.rule.phases_before])

    def measure_again(self) -> None:
        """Those phases."""
        self._run(self._phases[self._stepper.rule.phases_before :])

    def finish(self) -> None:
        """The same, moves all tensors as measured, and counts the step."""
        self.measure_again()
        self._measure_stages(~OF_GRADIENT)
        self._update(self._moved)
        if self._settings.monitor:
            self._watch()
        if self._on & records.ZERO_GRADS:
            self._zero()
        self._engine.advance()

    def _measure_stages(self, bits: int) -> None:
        self._run([phase for phase in self._stages if phase.stage & self._on & bits])

    def _run(self, phases: list[Phase]) -> None:
        for phase in phases:
            which = phase.phase, phase.stage
            if phase.measures:
                for elements in self._measured:
                    self._engine.measure_parts(*which, elements.tensors, elements.parts[int(phase.by_rows)])
                for telling in self._tellings.get(id(phase), ()):
                    telling.tell()
            self._engine.settle(*which)
            self._boxes.follow()

    def _update(self, moved: list[Elements]) -> None:
        for elements in moved:
            self._engine.update_parts(elements.tensors, elements.parts[0])

    # -- gradients ----------------------------------------------------------------------------------------------------

    def _point_to_gradients(self) -> None:
        for name in PLACED:
            self._tensors[name] = self._plan.tensors[name]
            self._boxes.tensors[name] = self._plan.tensors[name][self._boxes.places]
        for k in self._shared:
            address, width, code = self._gradient(k)
            row = self._tensors[k : k + 1]
            row["g"], row["g_dtype"] = shifted(address, self._here[k].begin * width), code
            row["g_layout"] = row["g_order"] = 0
        for borrowed in self._borrowed:
            borrowed.tensors["scale"] = self._tensors["scale"][[cell.tensor for cell in borrowed.cells]]

    # -- monitoring ---------------------------------------------------------------------------------------------------

    def _watching(self) -> list[Telling]:
        """What ranks tell each other of the sums of blocks, as rows of numbers."""
        names = records.SUMS.names or ()
        self._rows = np.zeros((len(self._watched_sums), len(names)))
        found = []
        for group in self._groups:
            known = []
            for of_rank in group.ranges:
                each = []
                for k, r in zip(group.tensors, of_rank, strict=True):
                    first, blocks = int(self._tensors["first_block"][k]), self._grids[k][0]
                    values = self._rows[first : first + -(-r.n // BLOCK)]
                    each.append(Known(values, blocks.next(r.begin), blocks.next(r.end), blocks.alone))
                known.append([each_ for each_ in each if len(each_.values)])
            largest = [name == "largest" for name in names]
            found.append(Telling(self._gather, group, known, largest, Words(names)))
        return found

    def _watch(self) -> None:
        self._update(self._owned)
        names = records.SUMS.names or ()
        for column, name in enumerate(names):
            self._rows[:, column] = self._watched_sums[name]
        for telling in self._watched:
            telling.tell()
        for column, name in enumerate(names):
            self._watched_sums[name] = self._rows[:, column]

    def fold(self, totals: Records) -> None:
        """Sums of blocks → sums of tensors."""
        self._engine.fold(totals)


def shifted(base: int, back: int) -> int:
    """An address so many bytes before another one: where an array would begin of which only a later part is there."""
    return (base - back) % 2**64
