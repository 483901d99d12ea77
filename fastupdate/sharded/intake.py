"""How a rank takes in its own gradients, after every check: a piece of the batch in each call."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import Any

import numpy as np

from fastupdate.arrays import accept, overlap, tree
from fastupdate.arrays.containers import Containers
from fastupdate.arrays.memory import Array
from fastupdate.arrays.place import Place
from fastupdate.sharded.pieces import Pieces
from fastupdate.step import gradients
from fastupdate.step.stepper import Stepper
from fastupdate.step.tensors import Item, check_tree


class Intake:
    """The gradients of a rank since the last step.

    missing   the places of tensors that have none, where those are left alone
    """

    def __init__(
        self, stepper: Stepper, containers: Containers, wholes: list[Item], arrays: list[Any], own: range | None
    ) -> None:
        """wholes, arrays: the parameters. own: the pieces of this rank; None: as many as are handed in."""
        self._stepper, self._containers, self._wholes, self._arrays = stepper, containers, wholes, arrays
        self._own = own
        self._pieces = Pieces(0 if own is None else own.start)
        self._bound: Any = None
        self._zeroed: list[Any] = []  # when they have been used
        spans = sorted((*overlap.bounds(item.array), k) for k, item in enumerate(wholes))
        self._begins = [begin for begin, _, _ in spans]
        self._reached = [*accumulate((end for _, end, _ in spans), max)]  # by those that begin no later
        self._places = [k for _, _, k in spans]
        self._apart: set[tuple[int, int]] = set()  # from all parameters: first and one-past-last byte
        self.missing: tuple[int, ...] = ()

    @property
    def waiting(self) -> int:
        """Pieces that no step has used."""
        return self._pieces.count

    def place_of(self, k: int) -> Place:
        """Names a gradient in messages."""
        return Place(self._stepper.rule.name, tree.shown("grads", self._wholes[k].path))

    def _fail(self, expected: str, received: str) -> None:
        self._stepper.place("grads").fail(ValueError, expected, received)

    def bind(self, grads: Any) -> None:
        """Names what is read where no gradients are handed in."""
        before, missing = self._bound, self.missing
        try:
            self._bound = grads
            self._collected(None)
        except BaseException:
            self._bound, self.missing = before, missing
            raise

    def add(self, grads: Any) -> None:
        """Takes in the next piece, by copies."""
        if self._own is not None and self.waiting == len(self._own):
            self._fail(f"{len(self._own)} pieces on this rank in a step", "one more")
        found = self._collected(grads)
        self._pieces.add([np.array(grad, copy=True).reshape(-1) for grad in found])
        self._clear(found)

    def parts(self, grads: Any) -> tuple[list[list[Array]], int]:
        """What the pieces add up to as far as they can here, flat, and how many they are: those that were added, or the
        one that is handed in."""
        pieces = self._pieces
        if pieces.count and grads is not None:
            self._fail("None, for pieces were accumulated", "gradients")
        self._zeroed = [] if pieces.count else self._collected(grads)
        count = pieces.count or 1
        if self._own is not None and count != len(self._own):
            self._fail(
                f"those of pieces {self._own.start} to {self._own.stop - 1} (see accumulate)", f"{count} of them"
            )
        if not pieces.count:
            return [[grad.reshape(-1) for grad in self._zeroed]], 1
        return ([pieces.whole()] if self._own is None else [part.gradients for part in pieces.parts]), count

    def forget(self) -> None:
        """Lets go of the pieces."""
        self._pieces.forget()

    def done(self) -> None:
        """Lets go of gradients that have been used."""
        self._clear(self._zeroed)
        self._zeroed = []
        self._pieces.forget()

    def _clear(self, grads: list[Any]) -> None:
        for grad in grads if self._stepper.settings.zero_grads else ():
            grad[...] = 0

    def _collected(self, grads: Any) -> list[Any]:
        """The gradients of the tensors that move, checked; notes which ones have none."""
        if grads is None and self._bound is None:
            self._stepper.place("grads").fail(TypeError, "gradients, or bound ones (see bind)", "None")
        check_tree(self._containers, self._wholes)
        for own, whole in zip(self._stepper.items, self._wholes, strict=True):
            whole.check()
            whole.frozen = own.frozen
        plan = self._stepper.plan
        moving = [k for k, item in enumerate(self._wholes) if not item.frozen]
        given = self._bound if grads is None else grads
        found = dict(zip(moving, gradients.collect(given, self._containers, self._wholes, plan), strict=True))
        skips = plan.settings.missing == "skip"
        missing = tuple(k for k, grad in found.items() if grad is None and skips)
        if self.waiting and missing != self.missing:
            place = self.place_of(({*missing} ^ {*self.missing}).pop())
            place.fail(ValueError, "a gradient in all pieces of a step, or in none", "one in some")
        self.missing = missing
        return [self._checked(k, grad) for k, grad in found.items() if k not in missing]

    def _checked(self, k: int, grad: Any) -> Any:
        """A gradient as messages take it."""
        place = self.place_of(k)
        array = accept.as_array(grad, place)
        accept.check_gradient(array, self._wholes[k].array, place, samples=False)
        if self._stepper.settings.zero_grads and not array.flags.writeable:
            place.fail(ValueError, "a writable array, to be zeroed", "a read-only one")
        if array.size and overlap.bounds(array) not in self._apart:
            self._check_apart(array, place)
        if array.dtype.names:
            place.fail(TypeError, "an array of NumPy's, which can be widened", type(grad).__name__)
        return array if isinstance(self._arrays[k], np.ndarray) else grad

    def _check_apart(self, array: Array, place: Place) -> None:
        begin, end = overlap.bounds(array)
        near = self._places[bisect_right(self._reached, begin) : bisect_left(self._begins, end)]
        for k in near:
            overlap.check_separate(array, self._wholes[k].array, place, self._wholes[k].place)
        if not near:
            self._apart.add((begin, end))
