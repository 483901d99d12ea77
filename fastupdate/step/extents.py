"""What rules that measure ask of tensors: room for sums, and matrices."""

from __future__ import annotations

from math import prod

from fastupdate.engines import records
from fastupdate.rules.extent import Shape, matrix_of
from fastupdate.rules.rule import Rule
from fastupdate.step.tensors import Item


def room_for_sums(rule: Rule, shape: Shape) -> int:
    """How many float64 a tensor's sums need, in the phase that needs most."""
    rows, columns = matrix_of(shape)
    matrices = prod(shape[:-2])
    most = 0
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
            expected = f"a matrix (an array of two axes; give the others to another optimizer than {rule.name})"
            item.place.fail(ValueError, expected, f"shape {item.array.shape}")
