"""What ranks that share parameters do together in the steps of a run."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from fastupdate.engines.records import Records
from fastupdate.step.stepper import Stepper
from fastupdate.torch.alike import FAILED, Roll
from fastupdate.torch.exchange import meet
from fastupdate.torch.factors import Owners
from fastupdate.torch.looking import Lookout
from fastupdate.torch.matrices import Matrices
from fastupdate.torch.mesh import MeshSums
from fastupdate.torch.shards import Shards, is_split, needs_sums
from fastupdate.torch.together import Together
from fastupdate.torch.units import UnitNorms, has_cut_units


def meeting_of(
    stepper: Stepper,
    params: list[Any],
    groups: list[dict[str, Any]],
    moving: list[list[Any]],
    shards: Shards,
    owners: Owners,
) -> Meeting | None:
    """That of parameters that move, if a step depends on more of them than what is here.

    groups: of all the optimizer's parameters; moving: those that move, group by group; owners: of matrices
    """
    everything, settings = [p for group in groups for p in group["params"]], stepper.settings
    units = settings.clip_unit_norm is not None and any(map(has_cut_units, everything))
    if not (any(map(is_split, everything)) and (settings.needs_sums or units or needs_sums(stepper.rule, settings))):
        return None
    return Meeting(stepper, params, everything, Roll(stepper.rule.name, groups, moving), shards, owners)


class Meeting:
    """The ranks of a run.

    sums       of gradients, where a step is decided by them
    together   the engine, where a step depends on sums over tensors
    """

    def __init__(
        self,
        stepper: Stepper,
        params: list[Any],
        everything: list[Any],
        roll: Roll,
        shards: Shards,
        owners: Owners,
    ) -> None:
        self._stepper, self._params, self._roll, self._shards = stepper, params, roll, shards
        rule, settings = stepper.rule, stepper.settings
        self._ranks = meet(stepper, params, everything)
        self.sums = MeshSums(stepper, params, self._ranks, roll) if settings.needs_sums else None
        units = settings.clip_unit_norm is not None and any(map(has_cut_units, everything))
        self._units = UnitNorms(stepper, params, self._ranks, roll) if units else None
        self._matrices = Matrices(params, self._ranks, owners) if rule.matrix is not None else None
        self.together = self._engine() if needs_sums(rule, settings) else None
        self._parts = Lookout(shards.parts)

    def _engine(self) -> Together:
        opens = self.sums is None and self._units is None
        return Together(self._stepper, self._params, self._ranks, self._roll, opens=opens)

    @property
    def _opening(self) -> MeshSums | Together:
        """What sends the first message of a step."""
        opening = self.sums or (self._units.sums if self._units else self.together)
        assert opening is not None
        return opening

    def part(self, moving: list[list[Any]]) -> None:
        """Tells ranks that may be taking a step of this run that this one is to move others; ValueError unless all say
        so."""
        self._opening.part(self._roll.other(moving))

    def begin(self) -> None:
        """Before a step of which the others have not been told anything."""
        self._opening.opened = False

    def fail(self) -> None:
        """Lets the others know of an error on this rank, if they still wait for its first message."""
        if not self._opening.opened:
            with suppress(ValueError):
                self._opening.part(FAILED)

    def prepare(self) -> Records | None:
        """Lets the plan of a step know how ranks sum; the sums of the gradients, if it is decided by them."""
        self._follow()
        plan = self._stepper.plan
        plan.matrices = self._matrices
        if self._units is not None:
            plan.units_of_all = partial(self._units.fill, plan)
        if self.sums is None:
            return None
        plan.sums_of_all = self.sums.totals
        return self.sums.totals()

    def _follow(self) -> None:
        """Goes on from where parts are now, if they were given other memory or the stepper has another plan. A rank
        does so by itself: in the midst of a step the plan would change, and what is known of whole tensors be lost."""
        if not self._parts.intact():
            with self._stepper.exclusive():
                self._stepper.check(self._stepper.plan.items)
            self._parts = Lookout(self._shards.parts)
        if self.together is not None and self._stepper.engine is not self.together:
            self.together = self._engine()
