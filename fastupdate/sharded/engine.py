"""Steps over MPI of which each rank knows the sums of a part: those over the whole list, and what is monitored."""

from __future__ import annotations

from typing import Any

from fastupdate.arrays.memory import ITEM_SIZES
from fastupdate.rules.extent import Shape
from fastupdate.rules.rule import Rule
from fastupdate.sharded.alike import Ranks
from fastupdate.sharded.cells import Values
from fastupdate.sharded.ranges import Range
from fastupdate.sharded.telling import Group, Telling
from fastupdate.sharded.together import Phase, Together
from fastupdate.step.options import Settings
from fastupdate.step.stepper import Stepper


def sums_all(rule: Rule, settings: Settings) -> bool:
    """Whether a step needs sums of which each rank knows its part alone."""
    return settings.monitor or any(phase.summed("list") for phase in rule.phases)


class RankEngine(Together):
    """The engine of a plan of what is here of arrays: ranges that begin where blocks do, or all of a tensor."""

    def __init__(self, stepper: Stepper, ranks: Ranks, shapes: list[Shape], ranges: list[list[Range]]) -> None:
        """ranges: of each rank, of all tensors."""
        super().__init__(stepper, shapes, [Group(ranks.comm, ranks.rank, [*range(len(shapes))], ranges)])

    def _gather(self, handle: Any, sent: Values, told: Values) -> None:
        handle.Allgather(sent, told)

    def _begin(self) -> None:
        """No block is in parts of two ranks."""

    def _gradient(self, k: int) -> tuple[int, int, int]:
        row = self._plan.tensors[k]
        return int(row["g"]), int(ITEM_SIZES[row["g_dtype"]]), int(row["g_dtype"])

    def _zero(self) -> None:
        """Those of the user's are zeroed when they have been sent."""

    def _telling(self, phase: Phase) -> list[Telling]:
        """Sums of whole tensors are of the rank that has them, but for those over the list."""
        summed = not phase.stage and self._stepper.rule.phases[phase.phase].summed("list")
        return super()._telling(phase) if summed else []
