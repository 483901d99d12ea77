"""Weights that parameters hold for a while: within a `with` block, and whatever ends it."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat, starmap
from operator import call
from typing import Any

from fastupdate.arrays import autograd, device
from fastupdate.step.stepper import Stepper
from fastupdate.step.tensors import Item


def lending(stepper: Stepper, pick: Callable[[Item], Any]) -> Lending:
    """A context in which the parameters hold the values of other arrays, and the optimizer is busy."""
    back: deque[Iterator[Any]] = deque()  # what gives back: ready, for then there may be no memory to make it of

    def lend() -> Iterator[Any]:
        lock = stepper.exclusive()
        with lock:
            stepper.check(stepper.items)
            kept = [device.keeping(item.array) for item in stepper.items]
            new = [device.assignment(item.array, pick(item)) for item in stepper.items]
            tell = autograd.telling(item.source for item in stepper.items if item.is_torch)
            restore = [*(restore for _, restore in kept), (setattr, stepper, "lent", False), (lock.release,), *tell]
            back.clear()
            back.append(starmap(call, restore))
        keep = (keep for keep, _ in kept)
        return starmap(call, [(lock.acquire,), (setattr, stepper, "lent", True), *keep, *new])

    return Lending(_indivisible(lend), _indivisible(back.popleft))


def _indivisible(prepare: Callable[[], Iterator[Any]]) -> Callable[[], None]:
    """A function of C that calls prepare() and goes through what it returns, which makes assignments."""
    return partial(next, map(deque(maxlen=0).extend, map(call, repeat(prepare))))


class Lending(io.IOBase):
    """A context whose entry and exit are functions of C, so that no interrupt can come between them and the block.

    An `__exit__` written in Python could be interrupted before its first line. This one is that of io.IOBase, which
    calls `close`.
    """

    __slots__ = ("__enter__", "close")
    closed = True  # so that nothing is given back when an object dies that was never entered

    def __init__(self, lend: Callable[[], None], give_back: Callable[[], None]) -> None:
        self.__enter__ = lend  # type: ignore[assignment,method-assign]
        self.close = give_back  # type: ignore[method-assign]
