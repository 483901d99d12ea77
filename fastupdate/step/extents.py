"""What rules that measure ask of tensors: room for sums, and matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

from fastupdate.arrays import device
from fastupdate.engines import records
from fastupdate.rules.extent import Shape, matrix_of
from fastupdate.rules.rule import Rule
from fastupdate.stages import Stage
from fastupdate.step.tensors import Item, state_kind


def room_for_sums(rule: Rule, stages: Iterable[Stage], shape: Shape) -> int:
    """How many float64 a tensor's sums need, in the phase of the rule, or for the stage, that needs most."""
    rows, columns = matrix_of(shape)
    matrices = prod(shape[:-2])
    most = max((1 + (matrices * rows if s.by_rows else -(-prod(shape) // records.BLOCK)) for s in stages), default=0)
    for phase in rule.phases:
        parts = -(-prod(shape) // records.BLOCK)
        if phase.by_rows:
            parts = matrices * rows
        if phase.summed("column"):
            parts += matrices * -(-rows // records.ROW_CHUNK) * columns
        most = max(most, len(phase.sums) * (1 + parts))
    return most


def check_matrices(rule: Rule, items: list[Item]) -> None:
    """ValueError for a parameter that is no matrix, where a rule multiplies matrices."""
    for item in items if rule.matrix is not None else ():
        if item.array.ndim != 2:
            expected = "a matrix (an array of two axes; the others need a rule of theirs, as others=fu.AdamW.with_(…))"
            item.place.fail(ValueError, expected, f"shape {item.array.shape}")


def multiply(matrix: Callable[..., Any], rule: Rule, flags: Mapping[str, bool], items: list[Item]) -> None:
    """What a rule asks of the array library between its phases. No state is written: this may fail half-way."""
    chosen, kind = rule.flag_tuple(flags), state_kind(rule.matrix_state or "")
    for item in (item for item in items if item.array.size):
        array = device.owner_of(item.passing[kind])
        array[...] = matrix(chosen, array)
