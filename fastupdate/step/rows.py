"""Gradients of few rows: every check on them, and the records by which engines read them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastupdate.arrays import accept, memory
from fastupdate.arrays.memory import Array
from fastupdate.arrays.place import Place
from fastupdate.arrays.rows import Rows
from fastupdate.engines import choose, records
from fastupdate.engines.records import Records
from fastupdate.rules.rule import Rule
from fastupdate.step.options import Settings
from fastupdate.step.tensors import Item

Integers = NDArray[np.int64]


class Touched:
    """The rows of one tensor that a gradient touches, as engines read them.

    values     the gradient's rows, contiguous
    lazy       only these rows move
    elements   how many they have
    record     ROWS (csrc/core/plan.h)
    """

    def __init__(self, gradient: Rows, item: Item, lazy: bool, place: Place) -> None:
        param = item.array
        if param.ndim == 0 or not memory.is_direct(param):
            expected = "a dense gradient, or rows of a parameter that lies in C order (np.ascontiguousarray)"
            place.fail(ValueError, expected, f"rows of one with strides {param.strides} for shape {param.shape}")
        self.values = _values(gradient.values, param, _part(place, "values"))
        indices = _indices(gradient.indices, len(self.values), len(param), _part(place, "indices"))
        self._arrays = grouped(indices, len(param))
        at, starts, positions = memory.addresses(self._arrays).tolist()
        length, count = param.size // max(len(param), 1), len(self._arrays[0])
        self.record: Records = np.array([(length, count, lazy, at, starts, positions)], records.ROWS)
        self.lazy, self.elements = lazy, length * count


def _part(place: Place, name: str) -> Place:
    return Place(place.rule, f"{place.argument}.{name}")


def _values(values: Any, param: Array, place: Place) -> Array:
    array = accept.as_array(values, place)
    accept.check_rows(array, param, place)
    return array if memory.is_direct(array) else np.ascontiguousarray(array)


def _indices(indices: Any, count: int, rows: int, place: Place) -> Integers:
    array = accept.as_array(indices, place)
    if array.dtype.kind not in "iu":
        place.fail(TypeError, "integers", memory.type_name(array.dtype))
    if array.shape != (count,):
        place.fail(ValueError, f"shape ({count},), an index for each row of values", f"shape {array.shape}")
    if count and not (array.min() >= 0 and array.max() < rows):
        k = int(np.flatnonzero((array < 0) | (array >= rows))[0])
        expected = f"rows 0 … {rows - 1} of the parameter (negative ones do not count from its end)"
        place.fail(IndexError, expected, f"{array[k]} at position {k}")
    return np.ascontiguousarray(array, np.int64)


def _grouped_in_python(numbers: Integers, _bound: int) -> tuple[Integers, Integers, Integers]:
    """Those that occur in rising order, where each one's positions start, and the positions, in order."""
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    return found, np.append(starts, len(order)), order


grouped: Any = _grouped_in_python
if choose.native_problem() is None:
    from fastupdate import _core

    grouped = _core.grouped


def way_of(rule: Rule, settings: Settings) -> int:
    """What an engine may make of gradients of few rows that it can read as they lie."""
    if not settings.lazy_rows(rule):
        return records.DENSE_ROWS
    return records.NO_ROWS if _needs_all(rule, settings) else records.LAZY_ROWS


def check_possible(rule: Rule, settings: Settings, place: Place) -> None:
    """ValueError where a step of the touched rows alone is not to be had, by what it would need all rows for."""
    needed = _needs_all(rule, settings)
    if needed is not None:
        place.fail(ValueError, f"rows='dense' (every row moves) beside {needed}", "rows of a lazy step")


def _needs_all(rule: Rule, settings: Settings) -> str | None:
    whole = {
        f"a rule that measures whole tensors ({rule.name})": rule.matrix or _measures_more_than_rows(rule),
        "ema_decay": settings.ema_decay is not None,
        "lookahead": settings.lookahead is not None,
        "clip_unit_norm": settings.clip_unit_norm is not None,
        "monitor": settings.monitor,
        **{settings.asking(stage): True for stage in settings.measuring},
    }
    return next((name for name, wanted in whole.items() if wanted), None)


def _measures_more_than_rows(rule: Rule) -> bool:
    return any(set(phase.settles) - {"row"} for phase in rule.phases)
