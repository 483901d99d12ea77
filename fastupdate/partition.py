"""One optimizer of several rules: each parameter by one of them, and all in one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from operator import setitem
from os import PathLike
from typing import Any, Literal, TypeVar

from fastupdate import attributes
from fastupdate.arrays import autograd, overlap, rows, tree
from fastupdate.arrays.containers import Containers
from fastupdate.arrays.patterns import Finder, Pattern
from fastupdate.arrays.place import Place
from fastupdate.arrays.tree import Path
from fastupdate.engines import records
from fastupdate.groups import sort_into_groups, taken_apart
from fastupdate.optimizer import Optimizer, first_step
from fastupdate.recipes import Recipe, check_recipe, made, shares
from fastupdate.saving import file, parts
from fastupdate.saving import state as saving
from fastupdate.saving.checks import Rename
from fastupdate.saving.loading import Loaded
from fastupdate.step.dates import starting_at
from fastupdate.step.gradients import Reduce
from fastupdate.step.hypers import Group
from fastupdate.step.modes import turning
from fastupdate.step.options import Options
from fastupdate.step.report import Joined, Report
from fastupdate.step.stepper import Stepper, add
from fastupdate.step.tensors import Item, check_tree, sources
from fastupdate.step.transaction import at_once
from fastupdate.step.whole import WholeStep, take

T = TypeVar("T")


class Partition(attributes.NotTorch):
    """Updates parameters by several rules as one optimizer: one step, one norm of all gradients, one state.

        opt = fu.Partition(params, [("embed*", fu.SGD.with_(lr=0.1)), ("*", fu.AdamW.with_(lr=1e-3))], clip_norm=1.0)
        opt = fu.Muon(params, lr=0.02, others=fu.AdamW.with_(lr=3e-4))  # one as well: AdamW takes what is no matrix

    params   as any optimizer takes them
    rules    (pattern, rule) pairs: each parameter goes by the first whose pattern matches (see fu.groups for patterns).
             A rule is a class, or what its `with_` returns: its arguments, and the options decay, l1, l1_mode,
             clip_value, clip_tensor_norm, clip_unit_norm and groups, if they are to be other than for the rest
    options  as every optimizer takes them (docs/options.md), for all rules, but for `state`

    TypeError or ValueError names what makes no pair, a pattern that finds nothing which no earlier one does, a
    parameter that none finds, and what is wrong with a rule or an option.

    A step that one rule leaves out, because a gradient is not finite, say, all of them leave out, and if one of them
    raises, none has moved. Where gradients are on a GPU, nothing can be decided by all of them (no clip_norm, nonfinite
    and monitor), unless `outliers` lets the host decide.
    """

    def __init__(self, params: Any, rules: Iterable[tuple[Pattern, Recipe]], **options: Any) -> None:
        for name in options:
            if name not in Options.__annotations__ or name == "state":
                _place(name).unknown(TypeError, "option", [*Options.__annotations__.keys() - {"state"}])
        self._params, own = taken_apart("partition", params)
        groups = options.pop("groups", ())
        if own and not isinstance(groups, Mapping) and isinstance(groups, Iterable):
            groups = [*own, *groups]
        leaves = list(tree.leaves(self._params, _place("params")))
        given = {tree.dotted(path): leaf for path, leaf in leaves}
        paths = {tree.dotted(path): path for path, _ in leaves}
        if len(given) < len(leaves):
            _place("params").fail(ValueError, "a dotted name of its own for each array", "one of two arrays")
        sorted_groups = sort_into_groups("partition", given, groups)
        made_parts = []
        for names, recipe in shares(given, rules):
            chosen = set(names)
            own_groups = [
                {**values, "params": [given[name] for name in members if name in chosen]}
                for members, values in sorted_groups
                if values and not chosen.isdisjoint(members)
            ]
            made_parts.append(
                made(recipe, tree.nested((paths[name], given[name]) for name in names), own_groups, options)
            )
        self._take(tuple(made_parts))

    def _take(self, parts: tuple[Optimizer, ...]) -> None:
        attributes.show_parts(type(self), parts)
        self._parts = parts
        self._last: list[Report | None] = [None]
        self._containers = Containers(self.params)
        self._part_of = {item.path: k for k, part in enumerate(parts) for item in part.stepper.items}
        self._flat = self._containers.flat and type(self.params) in (list, dict)
        self._keys = [[item.path[0] for item in part.stepper.items if self._flat] for part in parts]
        items = self._items
        overlap.check_overlaps([item.array for item in items], lambda k: items[k].place)
        settings = self._steppers[0].settings
        if self._judges and (settings.needs_sums or settings.monitor):
            expected = "no clip_norm, nonfinite and monitor for parameters on a GPU (docs/partition.md)"
            _place("options").fail(ValueError, expected, "one")

    lr = attributes.OfParts("lr")  # the others likewise, by attributes.show_parts

    def _place(self, argument: str) -> Place:
        return _place(argument)

    @property
    def params(self) -> Any:
        """The parameters, as they were handed in."""
        return self._params

    @params.setter
    def params(self, _: object) -> None:
        attributes.fail(self, "params", "a new optimizer for other parameters, or theirs written in place")

    @property
    def parts(self) -> tuple[Optimizer, ...]:
        """The optimizers of the rules, to look at; what they do is done here."""
        return self._parts

    @parts.setter
    def parts(self, _: object) -> None:
        attributes.fail(self, "parts", "a new optimizer for other rules")

    @property
    def report(self) -> Report | None:
        """What the last step returned, lr being that of the first rule's first group; None before the first."""
        return self._last[0]

    @property
    def state(self) -> Any:
        """AttributeError: each rule has states of its own, which are those of its part."""
        self._place("state").fail(AttributeError, "opt.parts[k].state, of one rule", "a look at all of them")

    @state.setter
    def state(self, _: object) -> None:
        attributes.fail(self, "state", "arrays of opt.parts[k].state written in place, or load_state_dict")

    @property
    def _steppers(self) -> list[Stepper]:
        return [part.stepper for part in self.parts]

    @property
    def _items(self) -> list[Item]:
        return [item for stepper in self._steppers for item in stepper.items]

    @property
    def _judges(self) -> bool:
        return any(stepper.plan.judges for stepper in self._steppers)

    def __repr__(self) -> str:
        shown = "\n".join(repr(part) for part in self.parts)
        return "\n  ".join([self._title, *shown.splitlines()])

    def _repr_html_(self) -> str:
        return f"<b>{self._title}</b>{''.join(part._repr_html_() for part in self.parts)}"

    @property
    def _title(self) -> str:
        return f"Partition of {len(self.parts)} rules"

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of all rules, rule by rule."""
        return tuple(group for part in self.parts for group in part.groups)

    @groups.setter
    def groups(self, _: object) -> None:
        attributes.fail(self, "groups", "values set one by one, as opt.groups[0]['lr'] = x")

    def group(self, pattern: Pattern) -> Group:
        """The group of the tensors that match; ValueError if they are of several."""
        return attributes.group_of(_place("pattern"), self._find(pattern), self.groups)

    def _find(self, pattern: Pattern) -> set[str]:
        return Finder(sources(self._items))(_place("pattern"), pattern)

    # -- the step -----------------------------------------------------------------------------------------------------

    def step(
        self, grads: Any = None, *, loss_scale: float = 1.0, reduce: Reduce | None = None, loss: float | None = None
    ) -> Report:
        """Updates every parameter once, by its rule; raises before anything has changed, or does the whole step.

        Arguments as those of `Optimizer.step`.
        """
        report = self._exclusively(lambda: self._step(self._parted(grads), loss_scale, reduce, loss))
        self._last[0] = report
        return report

    def _step(self, grads: list[Any], loss_scale: float, reduce: Reduce | None, loss: float | None) -> Report:
        for stepper in self._steppers:
            stepper.derive()
        pairs = zip(self._steppers, grads, strict=True)
        steps = [WholeStep(stepper, own, loss_scale, reduce, loss) for stepper, own in pairs]
        if self._judges:
            reports = [
                stepper.undecided.take(stepper, step) for stepper, step in zip(self._steppers, steps, strict=True)
            ]
            return reports[0]
        outcome, watched = take(steps)
        tables = [statistics for statistics in watched if statistics is not None]
        return steps[0].report(outcome, Joined(*tables) if tables else None)

    def bind(self, grads: Any) -> None:
        """Names the gradient buffers that every later `step()` reads, as `step` takes them."""
        before = [dict(vars(stepper.bound)) for stepper in self._steppers]
        try:
            for stepper, own in zip(self._steppers, self._parted(grads), strict=True):
                stepper.bind(own)
        except BaseException:
            for stepper, old in zip(self._steppers, before, strict=True):
                vars(stepper.bound).update(old)
            raise

    def accumulate(self, grads: Any = None, *, reduce: Reduce | None = None, weight: float = 1.0) -> None:
        """Adds one micro-batch; arguments as those of `Optimizer.accumulate`."""
        self._exclusively(lambda: add(self._steppers, self._parted(grads), reduce, weight))

    def discard(self) -> None:
        """Forgets the micro-batches that were accumulated since the last step."""
        clocks = [stepper.clock for stepper in self._steppers]
        self._exclusively(lambda: at_once([(setitem, clock, records.MICRO_BATCHES, 0) for clock in clocks]))

    def start_at(self, step: int) -> None:
        """Makes the next step number `step` (1 for a fresh optimizer): for states that were trained elsewhere.

        Tensors that are frozen keep their own counts; a date (`frozen_until`) is ahead or past by the new number.
        """
        number = first_step(_place("step"), step)
        self._exclusively(lambda: at_once([a for stepper in self._steppers for a in starting_at(stepper, number)]))

    @property
    def step_count(self) -> int:
        """Steps taken."""
        return self.parts[0].step_count

    def _exclusively(self, work: Callable[[], T], inner: int = 0) -> T:
        """What work() returns, no other call running on any of the rules."""
        if inner < len(self.parts):
            stepper = self._steppers[inner]
            with stepper.exclusive(records.MOST_UNDECIDED):
                try:
                    return self._exclusively(work, inner + 1)
                finally:
                    stepper.let_go()
        check_tree(self._containers, self._items)
        return work()

    def _parted(self, grads: Any) -> list[Any]:
        """The gradients of each rule, in a structure like that of its parameters."""
        if grads is None:
            return [None for _ in self.parts]
        alike = self._flat and type(grads) is type(self.params) and len(grads) == len(self._part_of)
        if alike and (isinstance(grads, list) or grads.keys() == self.params.keys()):
            return [{key: grads[key] for key in keys} for keys in self._keys]
        found: list[list[tuple[Path, Any]]] = [[] for _ in self.parts]
        for path, grad in rows.leaves_at(grads, self._part_of, _place("grads")):
            found[self._part_of.get(path, 0)].append((path, grad))  # what has no parameter, the first one names
        return [tree.nested(own) for own in found]

    # -- what is kept -------------------------------------------------------------------------------------------------

    @property
    def ema(self) -> Any:
        """The moving average of the parameters (`ema_decay`), structured like them; None if it is off."""
        return self._merged("ema")

    @property
    def shadow(self) -> Any:
        """The low-precision copies (`shadow`), structured like the parameters; None if off."""
        return self._merged("shadow")

    @property
    def slow(self) -> Any:
        """Lookahead's slow weights (`lookahead`), structured like the parameters; None if it is off."""
        return self._merged("slow")

    def _merged(self, name: str) -> Any:
        own = [getattr(part, name) for part in self.parts]
        if own[0] is None:
            return None
        check_tree(self._containers, self._items)
        merged = tree.rebuild(self.params, lambda path: tree.follow(own[self._part_of[path]], path))
        return attributes.live(_place(name), merged)

    def resync(self) -> None:
        """Makes slow weights, moving average and low-precision copies follow the parameters as they are now."""
        for part in self.parts:
            part.resync()

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Within the context the parameters hold their moving average; afterwards they are as before, bit for bit."""
        with _all([part.ema_weights() for part in self.parts]):
            yield

    def eval(self) -> None:
        """Makes the parameters those to judge a model by. See `Optimizer.eval`."""
        self._turn(evaluating=True)

    def train(self) -> None:
        """Makes the parameters those to train at, again."""
        self._turn(evaluating=False)

    def _turn(self, evaluating: bool) -> None:
        self._exclusively(lambda: at_once([a for stepper in self._steppers for a in turning(stepper, evaluating)]))

    def freeze(self, pattern: Pattern) -> list[str]:
        """Stops updating the tensors whose dotted names match; returns the names. See `Optimizer.freeze`."""
        return [name for part, own in self._found(pattern) for name in part.freeze(own)]

    def unfreeze(self, pattern: Pattern, *, state: Literal["hold", "reset"] | float = "hold") -> list[str]:
        """Updates matching tensors again; returns the names. See `Optimizer.unfreeze`."""
        return [name for part, own in self._found(pattern) for name in part.unfreeze(own, state=state)]

    def _found(self, pattern: Pattern) -> list[tuple[Optimizer, list[Any]]]:
        names = self._find(pattern)
        found = [(part, [item.source for item in part.stepper.items if item.name in names]) for part in self.parts]
        return [(part, own) for part, own in found if own]

    # -- saving and resuming ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As that of an optimizer: "parts" has the state of each rule, "arrays" those of all."""
        return self._exclusively(lambda: parts.joined([saving.copied(stepper) for stepper in self._steppers]))

    def save(self, path: str | PathLike[str]) -> None:
        """Writes state and parameters to a safetensors file, for `fu.load`. Needs fastupdate[checkpoint]."""
        self._exclusively(
            lambda: file.write(
                path, parts.joined([saving.snapshot(stepper, params=True) for stepper in self._steppers])
            )
        )

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True, rename: Rename | None = None) -> Loaded:
        """Takes over what `state_dict` or `fu.load` gave, wholly or not at all; see `Optimizer.load_state_dict`."""

        def load() -> Loaded:
            for stepper in self._steppers:
                stepper.plan.keep_times()
            new = parts.loading_all(self._steppers, state, strict=strict, rename=rename)
            autograd.about_to_write(tensor for item in self._items for tensor in item.torch_tensors)
            at_once(new.assignments, new.schedules)
            return new.report

        return self._exclusively(load)

    def __getstate__(self) -> dict[str, Any]:
        return {"params": self.params, "parts": self.parts}

    def __setstate__(self, kept: Mapping[str, Any]) -> None:
        self._params = kept["params"]
        self._take(kept["parts"])


def divided(optimizer: type[Optimizer], others: Any, params: Any, arguments: Mapping[str, Any]) -> Partition:
    """An optimizer of matrices, and another rule for what is none, or has been chosen: the argument `others`.

    others: a rule, or (pattern, rule)
    """
    pattern, recipe = others if isinstance(others, tuple) and len(others) == 2 else (None, others)
    params, own = taken_apart(optimizer.rule.name, params)
    given = {tree.dotted(path): leaf for path, leaf in tree.leaves(params, Place(optimizer.rule.name, "params"))}
    place = Place(optimizer.rule.name, "others")
    chosen = set() if pattern is None else Finder(given)(place, pattern)
    matrices = [leaf for name, leaf in given.items() if getattr(leaf, "ndim", 0) == 2 and name not in chosen]
    kept = {id(leaf) for leaf in matrices}
    rest = [leaf for leaf in given.values() if id(leaf) not in kept]
    check_recipe(place, recipe)
    options = {name: value for name, value in arguments.items() if name in Options.__annotations__}
    hypers = {name: value for name, value in arguments.items() if name not in options}
    groups = options.get("groups", ())
    if own and not isinstance(groups, Mapping) and isinstance(groups, Iterable):
        options["groups"] = [*own, *groups]
    rules = [(matrices, partial(optimizer, **hypers)), (rest, recipe)]
    return Partition(params, [(leaves, rule) for leaves, rule in rules if leaves], **options)


def _place(argument: str) -> Place:
    return Place("partition", argument)


@contextmanager
def _all(contexts: list[Any]) -> Iterator[None]:
    """Enters one after the other, and leaves those that were entered, whatever comes between."""
    if not contexts:
        yield
        return
    with contexts[0], _all(contexts[1:]):
        yield
