"""What torch's autograd is told of memory that is written behind its back."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from fastupdate.arrays.memory import Assignment


def about_to_write(tensors: Iterable[Any]) -> None:
    """Raises the version counters of torch tensors, as torch's own in-place operations do, so that a graph that has
    saved one of them is not run backward with values that it never saw. To be called before the memory is written:
    an interrupt may come right after.
    """
    written = tuple(tensors)
    if written:
        _raise_versions(written)


def telling(tensors: Iterable[Any]) -> list[Assignment]:
    """Tells of these tensors, and returns the assignment that tells of them once more; it is of C, where torch's
    function takes several, and the last of those that are made, where it is not.
    """
    written = tuple(tensors)
    if not written:
        return []
    raise_versions = getattr(sys.modules["torch"]._C, "_increment_version", None)
    try:
        raise_versions(written)  # type: ignore[misc]
    except TypeError:
        about_to_write(written)
        return [(about_to_write, written)]
    return [(raise_versions, written)]


def introduce(module: Any) -> bool:
    """Shows torch to a compiled module, which calls it without linking it; false if this version of torch has no
    functions for that.
    """
    torch = sys.modules["torch"]
    raise_versions = getattr(torch._C, "_increment_version", None)
    return raise_versions is not None and bool(module.meet_torch(torch.Tensor, torch.nn.Parameter, raise_versions))


def _raise_versions(tensors: tuple[Any, ...]) -> None:
    torch = sys.modules["torch"]
    try:
        torch.autograd.graph.increment_version(tensors)
    except TypeError:  # before torch 2.5 it takes one tensor
        for tensor in tensors:
            torch.autograd.graph.increment_version(tensor)
