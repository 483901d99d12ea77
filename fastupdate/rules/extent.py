"""What states and sums of a rule are of (csrc/core/extents.h): an element, or a range of elements."""

from __future__ import annotations

from typing import Literal, get_args

# The last two axes are those of a matrix; a unit is a slice along the first axis, or a vector.
Extent = Literal["element", "row", "column", "matrix", "unit", "tensor", "list"]
EXTENTS: tuple[Extent, ...] = get_args(Extent)
Side = Literal["rows", "columns"]  # of a matrix: a factor is a square array as long as one
SIDES: tuple[Side, ...] = get_args(Side)
Shape = tuple[int, ...]


def matrix_of(shape: Shape) -> Shape:
    """Rows and columns of each matrix of a tensor: its last two axes; a vector of n has n rows."""
    return shape[-2:] if len(shape) > 1 else (*shape, 1)[-2:] if shape else (1, 1)


def shape_of(extent: Extent | Side, shape: Shape) -> Shape:
    """The shape of a state of this extent, or of a factor of this side, for a parameter of this shape."""
    rows, columns = matrix_of(shape)
    matrices = shape[:-2]
    shapes: dict[Extent | Side, Shape] = {
        "element": shape,
        "row": (*matrices, rows),
        "column": (*matrices, columns),
        "matrix": matrices,
        "unit": shape[:1] if len(shape) > 1 else (),
        "tensor": (),
        "list": (),
        "rows": (*matrices, rows, rows),
        "columns": (*matrices, columns, columns),
    }
    return shapes[extent]
