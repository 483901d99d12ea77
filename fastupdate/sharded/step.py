"""A step on several ranks: gradients add up, what is here moves, and all ranks get it, bucket by bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastupdate.arrays import tree
from fastupdate.arrays.memory import Array, Assignment
from fastupdate.sharded.alike import Ranks
from fastupdate.sharded.division import Division, is_by_elements
from fastupdate.sharded.engine import RankEngine, sums_all
from fastupdate.sharded.messages import Messages
from fastupdate.sharded.sums import RankSums
from fastupdate.step.decide import Outcome
from fastupdate.step.stepper import Stepper
from fastupdate.step.whole import WholeStep


class Work:
    """What the steps of some tensors work with.

    moving      their places among all
    loss_scale  of this step: what the sum of the gradients of all ranks is divided by
    count       pieces of this rank
    """

    loss_scale: float
    count: int

    def __init__(
        self,
        stepper: Stepper,
        ranks: Ranks,
        division: Division,
        arrays: Sequence[Array],
        moving: tuple[int, ...],
        pieces: int | None,
    ) -> None:
        self.moving, self._stepper, self._ranks = moving, stepper, ranks
        self._shapes = [arrays[k].shape for k in moving]
        self.buckets = division.buckets(moving)
        flat = [arrays[k].reshape(-1) for k in moving]
        self.messages = Messages(ranks, self.buckets, flat, pieces)
        items = [stepper.items[k] for k in moving]
        self._paths = [item.path for item in items]
        self._names = [item.name for item in items]
        self._own = [*self._parts([item.array.shape for item in items], ranks.rank)]
        self._parts_here: list[list[Array]] = []
        self._ranges = [[of_rank[k] for k in moving] for of_rank in division.ranges]
        self.sums = RankSums(stepper, ranks, self._ranges, self._own) if stepper.settings.needs_sums else None

    def _parts(self, shapes: list[Any], rank: int) -> Iterator[Array]:
        """Where the summed gradients of what is here of each tensor are."""
        for bucket, own in zip(self.buckets, self.messages.own, strict=True):
            at = {s.tensor: s for s in bucket.stretches[rank]}
            start = bucket.starts[rank]
            for k in range(*bucket.tensors):
                begin = at[k].offset - start if k in at else 0
                size = at[k].end - at[k].begin if k in at else 0
                yield own[begin : begin + size].reshape(shapes[k])

    def take(self, parts: list[list[Array]], loss_scale: float, count: int) -> None:
        """The gradients of the next step: of one part of this rank's pieces, or several."""
        self._parts_here, self.loss_scale, self.count = parts, loss_scale, count

    def gradients(self) -> Any:
        """What they will have come to, structured as the stepper's parameters are."""
        return tree.nested(zip(self._paths, self._own, strict=True))

    def by_name(self) -> dict[str, Array]:
        """The same by dotted names."""
        return dict(zip(self._names, self._own, strict=True))

    def reduced(self) -> Iterator[int]:
        """The buckets, each when its gradients have been added up."""
        return self.messages.reduced(self._parts_here)

    def engage(self) -> None:
        """Gives the plan of these tensors an engine by which ranks tell each other of sums, if it needs one."""
        stepper = self._stepper
        if sums_all(stepper.rule, stepper.settings) and not isinstance(stepper.engine, RankEngine):
            RankEngine(stepper, self._ranks, self._shapes, self._ranges)
            stepper.derive()  # the stages of this step

    def done(self) -> None:
        """Lets go of the gradients, which are the user's."""
        self._parts_here = []


class Step(WholeStep):
    """A step whose gradients are on their way."""

    def share(self, work: Work) -> None:
        """Names what it works with; if gradients are read before anything moves, they are waited for."""
        self._work = work
        work.engage()
        rule, settings = self._stepper.rule, self._stepper.settings
        self._at_once = bool(rule.phases) or settings.monitor
        self._came = settings.needs_sums or self._at_once or not is_by_elements(rule, settings)
        if self._came:
            for _ in work.reduced():
                pass
        if work.sums is not None:
            self.plan.sums_of_all = work.sums.totals

    def moving(self, outcome: Outcome) -> list[Assignment]:
        """The calls that move all tensors, count the step, and give all ranks what has moved."""
        stepper, messages = self._stepper, self._work.messages
        everything = range(len(self._work.buckets))
        if self._at_once:
            return [*super().moving(outcome), (messages.gather, everything)]
        taking = stepper.skips.taking(outcome) if stepper.settings.needs_sums else []
        scale = self.scale * outcome.factor * stepper.sign
        came = everything if self._came else self._work.reduced()
        return [
            (stepper.engine.measure, scale, self.off),
            (messages.gather, self._moved(came)),
            (stepper.engine.advance,),
            *taking,
        ]

    def _moved(self, came: Any) -> Iterator[int]:
        for k in came:
            self._stepper.engine.move(*self._work.buckets[k].tensors)
            yield k
