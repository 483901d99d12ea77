"""The optimizer of arrays that are whole on each rank, while each rank moves, and has the states of, a part of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from os import PathLike
from typing import Any, Literal, NoReturn

import numpy as np

from fastupdate import optimizer as one_process
from fastupdate.arrays import accept, device, tree
from fastupdate.arrays.containers import Containers
from fastupdate.arrays.memory import Array
from fastupdate.arrays.numbers import POSITIVE, integer, real
from fastupdate.arrays.patterns import Finder, Pattern
from fastupdate.arrays.place import Place
from fastupdate.groups import GroupSpec, taken_apart
from fastupdate.rules.rule import Rule
from fastupdate.saving.loading import Loaded, Rename
from fastupdate.sharded import states
from fastupdate.sharded.alike import Facts, Ranks, in_words, values_of
from fastupdate.sharded.division import Division, is_by_elements, part_of
from fastupdate.sharded.pieces import Pieces, share
from fastupdate.sharded.step import Step, Work
from fastupdate.step import gradients
from fastupdate.step.gradients import Reduce
from fastupdate.step.options import Settings
from fastupdate.step.plan import Plan
from fastupdate.step.report import Report
from fastupdate.step.tensors import Item, check_tree, make_items, sources
from fastupdate.step.whole import take


class Optimizer(one_process.Optimizer):
    """An optimizer on several ranks; each method is to be called on all of them.

    comm    a communicator of mpi4py's
    pieces  of each batch, whatever the number of ranks: each hands over the gradients of its own ones, `own_pieces`, in
            order, and all add up in one order, so that the run has the same bits on any number of ranks. None: MPI adds
            up what ranks hand over

    What belongs to single tensors (`state`, `ema` …) is that of the part that is here: elements that follow each other,
    or a whole tensor or none where the rule, or an option, needs what a tensor's elements add up to.
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
        wrong = self.rule.check({**hypers, **flags})
        if wrong:
            raise ValueError(f"[{rule}] {wrong}")
        params, own = taken_apart(rule, params)
        self._containers = Containers(params)
        self.wholes = make_items(rule, params)
        self._arrays = [_checked(item) for item in self.wholes]
        self.pieces = None if pieces is None else integer(Place(rule, "pieces"), pieces)
        if self.pieces is not None and self.pieces < self.ranks.count:
            expected = f"at least one piece for each of {self.ranks.count} ranks"
            Place(rule, "pieces").fail(ValueError, expected, str(self.pieces))
        settings = Settings(rule, **{name: value for name, value in options.items() if name in _OPTIONS})
        _check_possible(self.rule, settings)
        self.by_elements = is_by_elements(self.rule, settings)
        self.division = Division(self._arrays, self.ranks.count, self.by_elements)
        parts = [
            (item.path, part_of(array, r, self.by_elements))
            for item, array, r in zip(self.wholes, self._arrays, self._here, strict=True)
        ]
        groups = self._by_names([*own, *options.get("groups", ())])
        super().__init__(tree.nested(parts), hypers, flags, **{**options, "groups": groups})
        for item, whole in zip(self.stepper.items, self.wholes, strict=True):
            item.param.source = whole.param.source  # which patterns mean
        if self.stepper.plan.queued and (settings.needs_sums or settings.monitor):
            Place(rule, "options").fail(ValueError, "none that reads the gradients first, for arrays on a GPU", "one")
        self._bound: Any = None
        self._pieces = Pieces(*self._ends())
        self._zeroed: list[Array] = []  # gradients that are to be, when they have been used
        self._missing: tuple[int, ...] = ()  # of the pieces that are there
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

    def _ends(self) -> tuple[int, int | None]:
        return (0, None) if self.pieces is None else (self.own_pieces.start, self.own_pieces.stop)

    @property
    def own_pieces(self) -> range:
        """Which pieces of a batch this rank is to hand over the gradients of."""
        return range(self.ranks.rank, self.ranks.rank + 1) if self.pieces is None else self._share()

    def _share(self) -> range:
        assert self.pieces is not None
        return share(self.pieces, self.ranks.rank, self.ranks.count)

    def _facts(self) -> dict[str, str]:
        """What has to be the same on all ranks."""
        settings = self.stepper.settings
        facts = {"rule": self.rule.name, "params": f"{len(self.wholes)} arrays", "pieces": str(self.pieces)}
        facts |= {name: in_words(getattr(settings, name)) for name in _OPTIONS if name not in ("groups", "state")}
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
                self._done(work)
            self.report = step.report(outcome, watched)
        return self.report

    def _done(self, work: Work) -> None:
        """Lets go of the gradients, which are the user's, once they have been used."""
        for grad in self._zeroed:
            grad[...] = 0
        self._zeroed = []
        self._pieces.forget()
        work.done()

    def _taken_in(self, grads: Any, loss_scale: Any, reduce: Any) -> Work:
        """The gradients of this rank's pieces, after every check."""
        rule, stepper = self.rule.name, self.stepper
        if reduce not in (None, "mean", "sum"):
            Place(rule, "reduce").fail(ValueError, "'mean', 'sum' or None", repr(reduce))
        number = real(Place(rule, "loss_scale"), loss_scale, POSITIVE)
        stepper.check_mode()
        stepper.derive()
        if not self._pieces.count:
            found = self._collected(grads)
            parts = [[g.reshape(-1) for g in found]]
            self._zeroed = found if self.stepper.settings.zero_grads else []
        elif grads is not None:
            Place(rule, "grads").fail(ValueError, "None, for pieces were accumulated", "gradients")
        count = max(self._pieces.count, 1)
        if self.pieces is not None and count != len(self.own_pieces):
            expected = f"those of pieces {self.own_pieces.start} to {self.own_pieces.stop - 1} (see accumulate)"
            Place(rule, "grads").fail(ValueError, expected, f"{count} of them")
        if self._pieces.count:
            parts = [self._pieces.whole()] if self.pieces is None else [p.gradients for p in self._pieces.parts]
        work = self._work_for(stepper.plan)
        together = self.pieces or count * self.ranks.count
        work.take(parts, number * (1 if reduce == "sum" else together), count)
        return work

    def _work_for(self, plan: Plan) -> Work:
        """What a step of the tensors works with that have gradients now."""
        moving = tuple(k for k, item in enumerate(self.stepper.items) if not item.frozen and k not in self._missing)
        if self._work is None or self._work.moving != moving:
            self._work = Work(self.stepper, self.ranks, self.division, self._arrays, moving, self.pieces)
        return self._work

    def _collected(self, grads: Any) -> list[Array]:
        """The gradients of the tensors that move, checked; notes which ones have none."""
        if grads is None and self._bound is None:
            Place(self.rule.name, "grads").fail(TypeError, "gradients, or bound ones (see bind)", "None")
        plan = self.stepper.plan
        check_tree(self._containers, self.wholes)
        for own, whole in zip(self.stepper.items, self.wholes, strict=True):
            whole.check()
            whole.frozen = own.frozen
        moving = [k for k, item in enumerate(self.stepper.items) if not item.frozen]
        given = self._bound if grads is None else grads
        found = gradients.collect(given, self._containers, self.wholes, plan)
        skips = plan.settings.missing == "skip"
        missing = tuple(k for k, g in zip(moving, found, strict=True) if g is None and skips)
        if self._pieces.count and missing != self._missing:
            place = self._place_of((set(missing) ^ set(self._missing)).pop())
            place.fail(ValueError, "a gradient in all pieces of a step, or in none", "one in some")
        self._missing = missing
        zeroed = plan.settings.zero_grads
        pairs = [(k, g) for k, g in zip(moving, found, strict=True) if k not in missing]
        return [_checked_gradient(g, self._arrays[k], self.wholes[k], self._place_of(k), zeroed) for k, g in pairs]

    def _place_of(self, k: int) -> Place:
        return Place(self.rule.name, tree.shown("grads", self.wholes[k].path))

    def _step_facts(self, work: Work, loss: Any) -> Facts:
        names = {self._place_of(k).argument: "None" for k in self._missing}
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
            before, missing = self._bound, self._missing
            try:
                self._bound = grads
                self._collected(None)
            except BaseException:
                self._bound, self._missing = before, missing
                raise

    def accumulate(self, grads: Any = None, *, reduce: Reduce | None = None, weight: float = 1.0) -> None:
        """Takes in the gradients of this rank's next piece of the batch; without a message. The next step() moves by
        all of them, of all ranks. There is no `reduce` and no `weight`: see `reduce="sum"` of `step`."""
        with self.stepper.exclusive():
            place = Place(self.rule.name, "weight" if reduce is None else "reduce")
            if reduce is not None or weight != 1.0:
                place.fail(ValueError, "none (of weighed gradients, step(reduce='sum') takes the sum)", "one")
            self.stepper.derive()
            if self.pieces is not None and self._pieces.count == len(self.own_pieces):
                expected = f"{len(self.own_pieces)} pieces on this rank in a step"
                Place(self.rule.name, "grads").fail(ValueError, expected, "one more")
            found = self._collected(grads)
            self._pieces.add(found)
            for grad in found if self.stepper.settings.zero_grads else ():
                grad[...] = 0

    def discard(self) -> None:
        """Forgets the pieces that were accumulated since the last step."""
        self._pieces.forget()

    @property
    def params(self) -> Any:
        """The parameters, as they were handed in."""
        return self._containers.tree

    @property
    def parts(self) -> dict[str, Any]:
        """What is here of each parameter, by its dotted name: views, empty where another rank has all of it."""
        return {item.name: item.array for item in self.stepper.items}

    @property
    def reduced(self) -> dict[str, Any]:
        """The gradients of those parts in the last step, of all ranks together: summed up, and not yet divided."""
        return {} if self._work is None else self._work.by_name()

    # -- weights ------------------------------------------------------------------------------------------------------

    def gather(self) -> None:
        """Gives all ranks the parameters as each has its own part of them."""
        states.give(self.ranks, self.division, dict(enumerate(self._arrays)))

    def eval(self) -> None:
        """Makes the parameters those to judge a model by. See `fu.Optimizer.eval`."""
        super().eval()
        self.gather()

    def train(self) -> None:
        """Makes the parameters those to train at, again."""
        super().train()
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
        if self._pieces.count:
            words = f"[{self.rule.name}] {argument}: expected no accumulated pieces (step or discard first), received"
            problem = ValueError(f"{words} {self._pieces.count}")
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


_OPTIONS: dict[str, Literal[True]] = {field.name: True for field in fields(Settings) if field.name != "rule"}


def _checked(item: Item) -> Any:
    """A parameter as messages and views take it: the array of CuPy's, or NumPy's."""
    if item.param.is_torch:
        item.place.fail(TypeError, "an array of NumPy's or CuPy's (torch has fu.torch)", "a tensor of torch's")
    array = item.param.source if isinstance(item.array, device.DeviceArray) else item.array
    if not item.array.flags.c_contiguous:
        item.place.fail(ValueError, "an array in C order (np.ascontiguousarray), of which ranks have parts", "another")
    return array


def _checked_gradient(grad: Any, param: Array, item: Item, place: Place, zeroed: bool) -> Any:
    """A gradient as messages take it."""
    array = accept.as_array(grad, place)
    accept.check_gradient(array, item.array, place, samples=False)
    if zeroed and not array.flags.writeable:
        place.fail(ValueError, "a writable array, to be zeroed", "a read-only one")
    if array.dtype.names:
        place.fail(TypeError, "an array of NumPy's, which can be widened", type(grad).__name__)
    return array if isinstance(param, np.ndarray) else grad


def _check_possible(rule: Rule, settings: Settings) -> None:
    """Raises for what needs to know more than a rank has."""
    if any("list" in total.extents for phase in rule.phases for total in phase.sums.values()):
        expected = "a rule that needs no sums over all tensors, of which ranks have parts"
        Place(rule.name, "rule").fail(ValueError, expected, rule.name)
    if settings.monitor:
        Place(rule.name, "monitor").fail(ValueError, "False, where ranks share parameters", "True")
    if settings.state is not None:
        Place(rule.name, "state").fail(ValueError, "None, where ranks share states (see load_state_dict)", "states")
