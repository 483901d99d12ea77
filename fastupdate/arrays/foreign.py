"""Arrays of the user's, who may resize, retype, lock or rebind them between two calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastupdate.arrays import accept, device, memory
from fastupdate.arrays.memory import Array
from fastupdate.arrays.place import Place
from fastupdate.arrays.tree import Path


class Identity(NamedTuple):
    """What makes an array the one that it is: equal ones are the same elements of the same memory."""

    address: int  # 0 of an empty array, which is nowhere
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any
    writable: bool
    negated: bool = False  # torch: the values are those in memory times −1

    @classmethod
    def of(cls, x: Any) -> Identity:
        """Of a NumPy array, or of a torch tensor by what torch says."""
        if isinstance(x, np.ndarray):
            return cls(memory.address(x) if x.size else 0, x.shape, x.strides, x.dtype, x.flags.writeable)
        return cls(x.data_ptr() if x.numel() else 0, tuple(x.shape), x.stride(), x.dtype, True, x.is_neg())


class Foreign:
    """An array of the user's as it was accepted.

    source  what the user handed in
    array   the same memory as a NumPy array
    header  the array that tells what has become of it: the user's own, if that is one of NumPy's
    path    where it is in the argument that it came in
    """

    __slots__ = ("_argument", "_seen", "array", "header", "is_torch", "path", "source")

    # An Identity; of an array of exactly NumPy's a view, whose header stays as it is. There may be a million of them:
    # a view is one object, and none that the garbage collector looks at.
    _seen: Identity | Array

    def __init__(self, source: Any, array: Array, argument: Place, path: Path = (), plain: bool = False) -> None:
        """plain: it is a writable array of exactly NumPy's."""
        self.source, self.array, self.header = source, array, array
        self._argument, self.path = argument, path
        if plain:
            self.is_torch, self._seen = False, array.view()
            return
        self.is_torch = accept.framework_of(source) == "torch"
        if isinstance(source, np.ndarray) and not self.is_torch:
            self.header = source
        self._seen = Identity.of(self._teller)

    @property
    def place(self) -> Place:
        """Names it in messages."""
        return self._argument.of_leaf(self.path)

    @property
    def _teller(self) -> Any:
        """What tells what has become of it."""
        return self.source if self.is_torch else self.header

    def _was(self) -> Identity:
        return Identity.of(self._seen) if isinstance(self._seen, np.ndarray) else self._seen

    def seen_by(self, reads: Callable[[Any], bool]) -> Any:
        """What an engine looks at in each step: a torch tensor itself, if it can, else the header."""
        return self.source if self.is_torch and reads(self.source) else self.header

    def is_still(self, x: Any) -> bool:
        """Whether x is what the user handed in, or another header over all of its memory."""
        if x is self.source:
            return True
        comparable = type(x) is type(self.source) and (self.is_torch or isinstance(x, np.ndarray))
        return comparable and Identity.of(x) == Identity.of(self._teller)

    def moved(self) -> bool:
        """Whether it is no longer what it was."""
        return Identity.of(self._teller) != self._was()

    def check(self) -> None:
        """Raises if it is no longer what it was."""
        now, seen = Identity.of(self._teller), self._was()
        if now == seen:
            return
        if not now.writable:
            self.place.fail(ValueError, "a writable array", "a read-only one")
        if math.prod(now.shape) != math.prod(seen.shape):
            received = "a resized one"
        elif now.dtype != seen.dtype:
            received = f"one of {now.dtype}"
        elif now.shape != seen.shape:
            received = f"one of shape {now.shape}"
        elif now.address != seen.address:
            received = "one in other memory"
        else:
            received = "one whose elements lie elsewhere"
        self.place.fail(ValueError, "the array that the optimizer was made for", received)


def shown(array: Any) -> Any:
    """What the user is handed of an array that is ours: the framework's own array of a device array, or a view, so that
    whatever is done to its header (read-only, another dtype) is done to that view. Neither owns the memory: NumPy does
    not resize it."""
    return device.owner_of(array) if isinstance(array, device.DeviceArray) else array.view()
