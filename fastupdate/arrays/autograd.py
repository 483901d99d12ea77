"""What torch's autograd is told of memory that is written behind its back."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def about_to_write(tensors: Iterable[Any]) -> None:
    """Raises the version counters of torch tensors, as torch's own in-place operations do, so that a graph that has
    saved one of them is not run backward with values that it never saw. To be called before the memory is written:
    an interrupt may come right after.
    """
    written = tuple(tensors)
    if written:
        _raise_versions(written)


def _raise_versions(tensors: tuple[Any, ...]) -> None:
    torch = sys.modules["torch"]
    try:
        torch.autograd.graph.increment_version(tensors)
    except TypeError:  # before torch 2.5 it takes one tensor
        for tensor in tensors:
            torch.autograd.graph.increment_version(tensor)
