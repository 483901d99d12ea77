"""What rules that measure ask of tensors: room for sums, and matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from math import prod
from operator import setitem
from typing import TYPE_CHECKING, Any

from fastupdate.arrays import device, tree
from fastupdate.arrays.memory import Assignment
from fastupdate.arrays.place import Place
from fastupdate.engines import records
from fastupdate.rules.extent import Shape, matrix_of
from fastupdate.rules.rule import Rule
from fastupdate.stages import Stage
from fastupdate.step.tensors import Item, state_kind

if TYPE_CHECKING:
    from fastupdate.step.plan import Plan


def room_for_sums(rule: Rule, stages: Iterable[Stage], shape: Shape) -> int:
    """How many float64 a tensor's sums need, in the phase of the rule, or for the stage, that needs most."""
    rows, columns = matrix_of(shape)
    matrices = prod(shape[:-2])
    blocks, in_rows = -(-prod(shape) // records.BLOCK), matrices * rows
    most = max((len(stage.sums) * (1 + (in_rows if stage.by_rows else blocks)) for stage in stages), default=0)
    for phase in rule.phases:
        parts = in_rows if phase.by_rows else blocks
        if phase.summed("column"):
            parts += matrices * -(-rows // records.ROW_CHUNK) * columns
        most = max(most, len(phase.sums) * (1 + parts))
    return most


def check_matrices(rule: Rule, items: list[Item]) -> None:
    """Raises for a parameter that is no matrix, or none that can be multiplied, where a rule multiplies matrices."""
    for item in items if rule.matrix is not None else ():
        if item.array.ndim != 2:
            expected = "a matrix (an array of two axes; the others need a rule of theirs, as others=fu.AdamW.with_(…))"
            item.place.fail(ValueError, expected, f"shape {item.array.shape}")
        if isinstance(item.array, device.DeviceArray) and not item.array.framework.MULTIPLIES:
            expected = (
                "a matrix of CuPy or torch, which multiply matrices (cupy.asarray(…) shares the memory of others)"
            )
            item.place.fail(TypeError, expected, type(item.array.owner).__name__)


def multiply(rule: Rule, flags: Mapping[str, bool], plan: Plan) -> list[Assignment]:
    """What a rule asks of the array library between its phases; the assignments of what is kept for later steps.

    Until they are made no state is written: this may fail half-way.
    """
    kept: list[Assignment] = []
    product, kinds = _product(rule, flags, plan), [state_kind(name) for name in rule.matrix_states]
    shared = frozenset() if plan.matrices is None else plan.matrices.shared
    for k, item in enumerate(plan.items):
        if k in shared or not item.array.size:
            continue
        arrays = [array_of(item, kind) for kind in kinds]
        for name, array, new in zip(rule.matrix_states, arrays, product(k, arrays), strict=True):
            if name in rule.passing:
                with _device_of(item):
                    array[...] = new
            elif new is not array:
                kept += _assignment(item, array, new)
    if plan.matrices is not None:
        kept += plan.matrices.multiply(plan, kinds, product)
    return kept


def _product(rule: Rule, flags: Mapping[str, bool], plan: Plan) -> Callable[[int, list[Any]], list[Any]]:
    """What the arrays of a tensor, by its place, become."""
    matrix: Any = rule.matrix
    rows = plan.tensors["group"].tolist()
    scalars = [_scalars(rule, group) for group in plan.groups] if "s" in rule.matrix_arguments else []

    def product(k: int, arrays: list[Any]) -> list[Any]:
        try:
            with _device_of(plan.items[k]):
                made = matrix(rule.flag_tuple(flags), *scalars[rows[k] : rows[k] + 1], *arrays)
        except (ValueError, RuntimeError) as error:  # each library has a LinAlgError of its own
            if not type(error).__name__.endswith("LinAlgError"):
                raise
            gradient = Place(rule.name, tree.shown("grads", plan.items[k].path))
            gradient.fail(FloatingPointError, "a gradient whose products have eigenvectors", str(error))
        return made if len(arrays) > 1 else [made]

    return product


def _device_of(item: Item) -> AbstractContextManager[Any]:
    """Within the context, a library that goes by the current device works on that of a tensor."""
    array = item.array
    return array.framework.working_on(array.number) if isinstance(array, device.DeviceArray) else nullcontext()


def _assignment(item: Item, array: Any, new: Any) -> list[Assignment]:
    """`array[...] = new`, of arrays of a tensor's, as calls of C (see transaction.py)."""
    assigned, context = (setitem, array, ..., new), _device_of(item)
    if isinstance(context, nullcontext):
        return [assigned]
    return [(context.__enter__,), assigned, (context.__exit__, None, None, None)]


def array_of(item: Item, kind: str) -> Any:
    """An array of a tensor's, as its framework has it."""
    return device.owner_of(item.passing[kind] if kind in item.passing else item.slots[kind])


def _scalars(rule: Rule, group: Any) -> Any:
    """What `prepare` gives for the step that a group takes."""
    return rule.prepare(dict(zip(rule.hypers, group["hyper"].tolist(), strict=False)), int(group["t"]) + 1)
