"""The optimizer of arrays that are whole on each rank, while each rank moves, and has the states of, a part of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager
from os import PathLike
from typing import Any, NoReturn, cast

import numpy as np

from fastupdate import attributes
from fastupdate import optimizer as one_process
from fastupdate.arrays import device, tree
from fastupdate.arrays.containers import Containers
from fastupdate.arrays.numbers import POSITIVE, integer, real
from fastupdate.arrays.patterns import Finder
from fastupdate.arrays.place import Place
from fastupdate.groups import GroupSpec, taken_apart
from fastupdate.optimizers import check_arguments
from fastupdate.saving.checks import Rename
from fastupdate.saving.loading import Loaded
from fastupdate.sharded import states
from fastupdate.sharded.alike import OPTIONS, Facts, Ranks, in_words, options_in_words, values_of
from fastupdate.sharded.division import Division, is_by_elements, part_of
from fastupdate.sharded.engine import sums_all
from fastupdate.sharded.intake import Intake
from fastupdate.sharded.pieces import share
from fastupdate.sharded.step import Step, Work
from fastupdate.sharded.together import check_backend
from fastupdate.step.gradients import Reduce
from fastupdate.step.options import Settings
from fastupdate.step.report import Report
from fastupdate.step.tensors import Item, make_items, sources
from fastupdate.step.whole import take


class Optimizer(one_process.Optimizer):
    """An optimizer on several ranks; each method is to be called on all of them.

    comm    a communicator of mpi4py's
    pieces  of each batch, whatever the number of ranks: each hands over the gradients of its own ones, `own_pieces`, in
            order, and all add up in one order, so that the run has the same bits on any number of ranks. None: MPI adds
            up what ranks hand over

    What belongs to single tensors (`state`, `ema` …) is that of the part that is here: elements that follow each other,
    or a whole tensor or none where the rule, or an option, needs what a tensor's elements add up to.

    What is wrong on one rank, or not the same on all, is an error of all ranks that names it, and nothing has changed.
    """

    def __init__(
        self,
        params: Any,
        comm: Any,
        hypers: Mapping[str, Any],
        flags: Mapping[str, bool],
        pieces: int | None = None,
        **options: Any,
    ) -> None:
        self.ranks = Ranks(self.rule.name, comm)
        problem, facts = None, {}
        try:
            self._make(params, hypers, flags, pieces, options)
            facts = self._facts()
        except Exception as error:
            problem = error
        self.ranks.agree(problem, repr(facts).encode(), lambda: facts)

    # -- construction -------------------------------------------------------------------------------------------------

    def _make(
        self, params: Any, hypers: Mapping[str, Any], flags: Mapping[str, bool], pieces: Any, options: dict[str, Any]
    ) -> None:
        rule = self.rule.name
        check_arguments(self.rule, {**hypers, **flags})
        params, own = taken_apart(rule, params)
        self.wholes = make_items(rule, params)
        self._containers = Containers(params)
        self._arrays = [_checked(item) for item in self.wholes]
        self.pieces = None if pieces is None else integer(Place(rule, "pieces"), pieces)
        if self.pieces is not None and self.pieces < self.ranks.count:
            expected = f"at least one piece for each of {self.ranks.count} ranks"
            Place(rule, "pieces").fail(ValueError, expected, str(self.pieces))
        settings = Settings(rule, **{name: value for name, value in options.items() if name in OPTIONS})
        _check_possible(settings)
        self.by_elements = is_by_elements(self.rule, settings)
        self.division = Division(self._arrays, self.ranks.count, self.by_elements)
        parts = [
            (item.path, part_of(array, r, self.by_elements))
            for item, array, r in zip(self.wholes, self._arrays, self._here, strict=True)
        ]
        groups = self._by_names([*own, *options.get("groups", ())])
        super().__init__(tree.nested(parts), hypers, flags, **{**options, "groups": groups})
        for item, whole in zip(self.stepper.items, self.wholes, strict=True):
            item.source = whole.source  # which patterns mean
        if self.stepper.plan.queued and (settings.needs_sums or settings.monitor):
            Place(rule, "options").fail(ValueError, "none that reads the gradients first, for arrays on a GPU", "one")
        if sums_all(self.rule, settings):
            check_backend(self.stepper)
        own_pieces = None if self.pieces is None else self.own_pieces
        self._intake = Intake(self.stepper, self._containers, self.wholes, self._arrays, own_pieces)
        self._work: Work | None = None

    def _by_names(self, specs: Iterable[GroupSpec]) -> list[GroupSpec]:
        """Groups whose tensors are masks of names, for the parts are other arrays."""
        find, found = Finder(sources(self.wholes)), []
        for k, spec in enumerate(specs):
            if isinstance(spec, Mapping) and "params" in spec:
                names = find(Place(self.rule.name, f"groups[{k}]['params']"), spec["params"])
                spec = {**spec, "params": dict.fromkeys(sorted(names), True)}
            found.append(spec)
        return found

    @property
    def _here(self) -> Any:
        return self.division.ranges[self.ranks.rank]

    @property
    def own_pieces(self) -> range:
        """Which pieces of a batch this rank is to hand over the gradients of, if it is cut into some."""
        return share(self.pieces or self.ranks.count, self.ranks.rank, self.ranks.count)

    def _facts(self) -> dict[str, str]:
        """What has to be the same on all ranks."""
        settings = self.stepper.settings
        facts = {"rule": self.rule.name, "params": f"{len(self.wholes)} arrays", "pieces": str(self.pieces)}
        facts |= options_in_words(settings)
        facts |= {name: str(flag) for name, flag in self.stepper.flags.items()}
        for item, array in zip(self.wholes, self._arrays, strict=True):
            words = f"an array of shape {array.shape} and {array.dtype}"
            facts[item.place.argument] = words
        for k, group in enumerate(self.groups):
            facts |= {f"groups[{k}][{name!r}]": in_words(value) for name, value in group.items()}
        for item, array in zip(self.wholes, self._arrays, strict=True):
            if isinstance(array, np.ndarray):
                facts[f"the values of {item.place.argument}"] = values_of(array)
        return facts | {"step": str(self.step_count)}

    # -- the step -----------------------------------------------------------------------------------------------------

    def step(
        self, grads: Any = None, *, loss_scale: float = 1.0, reduce: Reduce | None = None, loss: float | None = None
    ) -> Report:
        """Updates every parameter once, by the gradients of all ranks; all raise before anything has changed, or none.

        grads       of this rank's piece, structured like the parameters; None: the accumulated or the bound ones
        loss_scale  what the loss was multiplied by, on all ranks
        reduce      "mean" or None, or "sum" over the pieces of all ranks
        loss        the same on all ranks: what the option `outliers` is to judge
        """
        stepper = self.stepper
        with stepper.exclusive():
            problem, work = None, None
            try:
                work = self._taken_in(grads, loss_scale, reduce)
                step = Step(stepper, work.gradients(), work.loss_scale, None, loss)
            except Exception as error:
                problem = error
            facts: Facts = {} if work is None else self._step_facts(work, loss)
            digest = repr(facts).encode() + stepper.plan.groups.tobytes()
            self.ranks.agree(problem, digest, lambda: {**facts, **self._group_facts()})
            assert work is not None
            try:
                step.share(work)
                outcome, (watched,) = take([step])
            finally:
                stepper.let_go()
                self._intake.done()
                work.done()
            self._last[0] = report = step.report(outcome, watched)
        return report

    def _taken_in(self, grads: Any, loss_scale: Any, reduce: Any) -> Work:
        """The gradients of this rank's pieces, after every check."""
        rule, stepper = self.rule.name, self.stepper
        if reduce not in (None, "mean", "sum"):
            Place(rule, "reduce").fail(ValueError, "'mean', 'sum' or None", repr(reduce))
        number = real(Place(rule, "loss_scale"), loss_scale, POSITIVE)
        stepper.check_mode()
        stepper.derive()
        parts, count = self._intake.parts(grads)
        resting = self._intake.missing
        moving = tuple(k for k, item in enumerate(stepper.items) if not item.frozen and k not in resting)
        if self._work is None or self._work.moving != moving:
            self._work = Work(stepper, self.ranks, self.division, self._arrays, moving, self.pieces)
        together = self.pieces or count * self.ranks.count
        self._work.take(parts, number * (1 if reduce == "sum" else together), count)
        return self._work

    def _step_facts(self, work: Work, loss: Any) -> Facts:
        names = {self._intake.place_of(k).argument: "None" for k in self._intake.missing}
        settings = self.stepper.plan.settings
        limits = {name: repr(getattr(settings, name)) for name in settings.scheduled}
        count = "any" if self.pieces is not None else str(work.count)
        own = {"step": str(self.step_count), "loss": repr(loss), "loss_scale": repr(work.loss_scale)}
        return {**own, "grads": f"those of {count} pieces", **names, **limits}

    def _group_facts(self) -> Facts:
        return {
            f"groups[{k}][{name!r}]": in_words(value)
            for k, group in enumerate(self.groups)
            for name, value in group.numbers.items()
        }

    def bind(self, grads: Any) -> None:
        """Names the gradient buffers that every later `step()` and `accumulate()` reads, as `step` takes them."""
        with self.stepper.exclusive():
            self._intake.bind(grads)

    def accumulate(self, grads: Any = None, *, reduce: Reduce | None = None, weight: float = 1.0) -> None:
        """Takes in the gradients of this rank's next piece of the batch; without a message. The next step() moves by
        all of them, of all ranks. There is no `reduce` and no `weight`: see `reduce="sum"` of `step`."""
        with self.stepper.exclusive():
            if reduce is not None or weight != 1.0:
                place = Place(self.rule.name, "weight" if reduce is None else "reduce")
                place.fail(ValueError, "none (of weighed gradients, step(reduce='sum') takes the sum)", "one")
            self.stepper.derive()
            self._intake.add(grads)

    def discard(self) -> None:
        """Forgets the pieces that were accumulated since the last step."""
        self._intake.forget()

    @property
    def params(self) -> Any:
        """The parameters, as they were handed in."""
        return self._containers.tree

    @params.setter
    def params(self, _: object) -> None:
        attributes.fail(self, "params", "a new optimizer for other parameters, or theirs written in place")

    @property
    def parts(self) -> dict[str, Any]:
        """What is here of each parameter, by its dotted name: views, empty where another rank has all of it."""
        return self._shown("parts", {item.name: item.array for item in self.stepper.items})

    @property
    def reduced(self) -> dict[str, Any]:
        """The gradients of those parts in the last step, of all ranks together: summed up, and not yet divided."""
        return self._shown("reduced", {} if self._work is None else self._work.by_name())

    def _shown(self, argument: str, arrays: dict[str, Any]) -> dict[str, Any]:
        return cast(dict[str, Any], attributes.live(self.stepper.place(argument), arrays))

    # -- weights ------------------------------------------------------------------------------------------------------

    def gather(self) -> None:
        """Gives all ranks the parameters as each has its own part of them."""
        states.give(self.ranks, self.division, dict(enumerate(self._arrays)))

    def eval(self) -> None:
        """Makes the parameters those to judge a model by. See `fu.Optimizer.eval`."""
        super().eval()
        self._show_mode()

    def train(self) -> None:
        """Makes the parameters those to train at, again."""
        super().train()
        self._show_mode()

    def _show_mode(self) -> None:
        if self.rule.evaluated is not None:
            self.gather()

    def ema_weights(self) -> AbstractContextManager[Any]:
        """Within the context the parameters hold their moving average, on all ranks; afterwards they are as before."""
        return self._averaged(super().ema_weights())

    @contextmanager
    def _averaged(self, lent: AbstractContextManager[Any]) -> Any:
        try:
            with lent:
                self.gather()
                yield
        finally:
            self.gather()

    # -- saving and resuming ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """That of an optimizer in one process, of whole tensors, on every rank."""
        return self._state(None)

    def _state(self, root: int | None) -> dict[str, Any]:
        with self.stepper.exclusive():
            self._check_none("state_dict")
            return states.gathered(self, root)

    def _check_none(self, argument: str) -> None:
        problem = None
        if self._intake.waiting:
            words = f"[{self.rule.name}] {argument}: expected no accumulated pieces (step or discard first), received"
            problem = ValueError(f"{words} {self._intake.waiting}")
        self.ranks.agree(problem, b"", dict)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes what an optimizer in one process would, by the first rank; for any number of ranks.

        At any moment, even if the machine stops, `path` is the old file or the new one, whole.
        """
        state, problem = self._state(0), None
        try:
            if self.ranks.rank == 0:
                states.write(path, state, self.wholes)
        except Exception as error:
            problem = error
        self.ranks.agree(problem, b"", dict)

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True, rename: Rename | None = None) -> Loaded:
        """Takes over what `state_dict` or `fu.load` gave, also on other numbers of ranks, or in one process.

        Each rank is handed the whole state, and takes its part. See `fu.Optimizer.load_state_dict`.
        """
        with self.stepper.exclusive():
            self._check_none("state_dict")
            loaded = states.load(self, state, strict, rename)
        self.gather()
        return loaded

    def __getstate__(self) -> NoReturn:
        raise TypeError(f"[{self.rule.name}] expected an optimizer of one process to copy, received one of many ranks")


def _checked(item: Item) -> Any:
    """A parameter as messages and views take it: the array of CuPy's, or NumPy's."""
    if item.is_torch:
        item.place.fail(TypeError, "an array of NumPy's or CuPy's (torch has fu.torch)", "a tensor of torch's")
    array = item.source if isinstance(item.array, device.DeviceArray) else item.array
    if not item.array.flags.c_contiguous:
        item.place.fail(ValueError, "an array in C order (np.ascontiguousarray), of which ranks have parts", "another")
    return array


def _check_possible(settings: Settings) -> None:
    """Raises for what needs to know more than a rank has."""
    if settings.state is not None:
        Place(settings.rule, "state").fail(ValueError, "None, where ranks share states (see load_state_dict)", "states")
