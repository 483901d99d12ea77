"""Gradients of few rows, as users hand them in."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

from fastupdate.arrays import accept, tree
from fastupdate.arrays.memory import Array
from fastupdate.arrays.place import Place
from fastupdate.arrays.tree import Path


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """A gradient that touches few rows of its parameter, as that of an embedding does, and is zero elsewhere.

        opt.step({"embedding": fu.Rows(tokens, output_grads), "head": head_grad})

    indices  (k,): the rows that it touches, slices along the parameter's first axis: integers of any type, in any
             order; a row that is named several times gets the sum, added up in the order in which it is named
    values   (k, *parameter.shape[1:]): their gradients, of the parameter's type or, where that is float32, a narrow
             one

    Whether the other rows take part in a step is for the option `rows` to say (docs/sparse.md). The step looks at both,
    before anything has changed: TypeError for other types, ValueError for other shapes, IndexError for a row that there
    is not. A plain pair (indices, values), in the place of a parameter's gradient, means the same.
    """

    indices: Any
    values: Any


def touches_rows(x: Any) -> bool:
    """Whether a gradient is of few rows."""
    return isinstance(x, Rows) or _is_pair(x) or _is_sparse(x)


def leaves_at(grads: Any, known: Container[Path], place: Place) -> Iterator[tuple[Path, Any]]:
    """The leaves of gradients; a pair is one, of few rows, where there is known to be a parameter."""
    return tree.leaves(grads, place, (), lambda x, path: _is_pair(x) and path in known)


def _is_pair(x: Any) -> bool:
    return type(x) is tuple and len(x) == 2


def _is_sparse(x: Any) -> bool:
    return accept.framework_of(x) == "torch" and getattr(x, "is_sparse", False) is True


def as_gradient(x: Any, shape: tuple[int, ...], place: Place) -> Array | Rows:
    """A gradient as an array that shares its memory (`as_array`), or as rows, which sparse tensors of torch's are, and
    pairs of indices and values."""
    if isinstance(x, Rows):
        return x
    if _is_pair(x):
        return Rows(*x)
    if not _is_sparse(x):
        check_no_function(x, place)
        if shape == () and isinstance(x, (int, float)):
            place.fail(TypeError, "an array (of one number: np.asarray(x, p.dtype))", type(x).__name__)
        return accept.as_array(x, place)
    if tuple(x.shape) != shape:
        place.fail(ValueError, f"shape {shape}", f"shape {tuple(x.shape)}")
    if x.sparse_dim() != 1:
        expected = "a sparse tensor of rows (x.sparse_dim() == 1, as nn.Embedding(…, sparse=True) has them)"
        place.fail(ValueError, expected, f"one of {x.sparse_dim()} sparse axes")
    return Rows(x._indices()[0], x._values())


def check_no_function(grads: Any, place: Place) -> None:
    """TypeError for a closure, which torch's optimizers call for a loss."""
    if callable(grads) and not hasattr(grads, "dtype"):
        place.fail(TypeError, "gradients (a closure is for optimizers of fu.torch)", type(grads).__name__)
