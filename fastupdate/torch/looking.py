"""What a run looks at in each step: objects that should be the same, tensors that should not move."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any

from numpy.typing import NDArray

from fastupdate.arrays.foreign import Identity
from fastupdate.engines import choose


class PythonTally:
    """Step counts that others see, and may set: some places of an array of floats (csrc/python/lookout.h)."""

    def __init__(self, counts: NDArray[Any], places: list[int]) -> None:
        self._counts, self._places = counts, places
        self.look()

    def look(self) -> None:
        """Takes the counts as they are."""
        self._seen = self._counts[self._places]

    def intact(self) -> bool:
        """Whether nobody else has changed them since the last look."""
        return bool((self._counts[self._places] == self._seen).all())

    def advance(self) -> None:
        """Counts one more step of each."""
        self._counts[self._places] += 1
        self.look()


def same_in_python(a: list[Any], b: list[Any]) -> bool:
    """Whether two lists hold the very same objects."""
    return len(a) == len(b) and all(map(is_, a, b))


class UnseenGroups:
    """Groups that nobody looks at before a closer look (SeenGroups in csrc/python/lookout.h)."""

    def __init__(self, rows: list[Any], rates: NDArray[Any], places: list[int], low: float, high: float) -> None:
        pass

    def changed(self, groups: list[Any]) -> Sequence[int]:
        """Which groups take a closer look: all."""
        return range(len(groups))


same_objects: Any = same_in_python
SeenGroups: Any = UnseenGroups
Tally: Any = PythonTally
step_again: Any = None  # makes what takes a step that is like the last one (csrc/python/again.h)
if choose.native_problem() is None:
    from fastupdate import _core

    same_objects, SeenGroups, Tally, step_again = _core.same_objects, _core.SeenGroups, _core.Tally, _core.again


class Lookout:
    """Tensors that should stay where they are."""

    def __init__(self, tensors: list[Any]) -> None:
        self._tensors = tensors
        self._seen = self._look()
        self.glance: Any = None  # which is native
        if choose.native_problem() is None:
            self.glance = _core.Lookout(tensors)

    def _look(self) -> list[Identity]:
        return [Identity.of(tensor) for tensor in self._tensors]

    def intact(self) -> bool:
        """Whether they have."""
        intact = None if self.glance is None else self.glance.intact()
        return self._look() == self._seen if intact is None else bool(intact)
