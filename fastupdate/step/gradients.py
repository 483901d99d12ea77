"""Gradients: from what the user hands to a step to the records that point at them, after every check."""

from __future__ import annotations

from collections.abc import Callable, KeysView
from itertools import repeat
from operator import is_not
from typing import Any, Literal, NoReturn

from fastupdate.arrays import accept, overlap, tree
from fastupdate.arrays.containers import Containers
from fastupdate.arrays.memory import Array, Assignment
from fastupdate.arrays.numbers import NON_NEGATIVE, POSITIVE, real
from fastupdate.arrays.place import Place
from fastupdate.arrays.rows import Rows, as_gradient, check_no_function, leaves_at, touches_rows
from fastupdate.engines.records import MICRO_BATCHES
from fastupdate.step import held, rows
from fastupdate.step.plan import Plan
from fastupdate.step.tensors import Item, check_tree

Reduce = Literal["mean", "sum"]


class NoGradientError(TypeError):
    """A torch parameter that should move holds no gradient."""


def collect(grads: Any, params: Containers, items: list[Item], plan: Plan) -> list[Any]:
    """The gradients of the tensors that are not frozen, in their order, from a structure like that of the parameters.

    Where missing ones are skipped, they are None.
    """
    moving, rule = plan.unfrozen, plan.settings.rule
    if type(grads) is list and len(grads) == params.listed == len(moving):
        return list(grads)
    leaves = params.leaves_of(grads)
    if leaves is not None:
        every = len(items) == len(moving)
        return leaves if every else [leaf for leaf, item in zip(leaves, items, strict=True) if not item.frozen]
    place = Place(rule, "grads")
    check_no_function(grads, place)
    skips = plan.settings.missing == "skip"
    known = dict.fromkeys(item.path for item in items).keys()
    found = dict(leaves_at(grads, known, place))
    extra = next((path for path in found if path not in known), None)
    if skips and extra is not None:
        branches = {path[:k] for path in known for k in range(len(path))}
        extra = next((path for path in found.keys() - known if found[path] is not None or path not in branches), None)
    missing = next((item for item in moving if item.path not in found), None)
    if (missing is not None and not skips) or extra is not None:
        check_tree(params, items)  # the gradients may be like what the parameters have become
        differing = _differing(known, found)
        if differing is None and missing is not None and not skips and found and known.isdisjoint(found):
            differing = next(iter(known)), next(iter(found))
        if differing:
            expected, received = tree.shown("params", differing[0]), tree.shown("grads", differing[1])
            words = f"the structure of params, with {expected}", f"another, with {received}"
            place.fail(ValueError, *words)
    if missing is not None and not skips:
        _fail_missing(missing, ValueError, "none")
    if extra is not None:
        Place(rule, tree.shown("grads", extra)).fail(ValueError, "nothing (no such parameter)", "a gradient")
    return [found.get(item.path) for item in moving]


def _differing(known: KeysView[tree.Path], found: dict[tree.Path, Any]) -> tuple[tree.Path, tree.Path] | None:
    """A parameter and a gradient of another structure: one is where the other has a container."""
    branches = {path[:k]: path for path in reversed(list(known)) for k in range(len(path))}
    for path in (path for path, leaf in found.items() if leaf is not None and path not in known):
        above = next((path[:k] for k in range(len(path)) if path[:k] in known), branches.get(path))
        if above is not None:
            return above, path
    return None


def some_missing(grads: list[Any]) -> bool:
    """Whether one of them is None."""
    return not all(map(is_not, grads, repeat(None)))


def held_by(plan: Plan) -> list[Any]:
    """The gradients that torch parameters hold; one that holds none is named, unless missing ones are skipped."""
    if not plan.own_gradients:
        Place(plan.settings.rule, "grads").fail(TypeError, "gradients, or bound ones (see bind)", "None")
    grads = [item.source.grad for item in plan.unfrozen]
    if plan.settings.missing == "raise":
        _check_there(plan, grads)
    return grads


def _check_there(plan: Plan, grads: list[Any]) -> None:
    for item, grad in zip(plan.unfrozen, grads, strict=True):
        if grad is None:
            _fail_missing(item, NoGradientError, "None")


def _fail_missing(item: Item, error: type[Exception], received: str) -> NoReturn:
    place = Place(item.place.rule, tree.shown("grads", item.path))
    place.fail(error, f"an array (or missing='skip', or opt.freeze({item.name!r}), to leave it alone)", received)


def adopt(
    plan: Plan, grads: list[Any], reduce: Reduce | None, zeroed: bool, checked: Callable[[], Plan]
) -> list[Array]:
    """Points the plan at these gradients after every check; raises for the first one that is wrong.

    The arrays returned are to be held until the engine has read them.

    zeroed   whether they will be written
    checked  raises if other arrays of the user's are not what they were; the plan of what they are now
    """
    rule = plan.settings.rule
    if reduce not in (None, "mean", "sum"):
        Place(rule, "reduce").fail(ValueError, "'mean', 'sum' or None", repr(reduce))
    arrays = grads
    if reduce or plan.unseen or plan.engine.adopt(plan.arrays, arrays, 0, zeroed) >= 0:
        plan = checked()
        _check_there(plan, grads) if plan.settings.missing == "raise" else None
        arrays = [as_gradient(g, plan.items[k].array.shape, place_of(plan, k)) for k, g in enumerate(grads)]
        k = 0 if reduce else plan.engine.adopt(plan.arrays, arrays, 0, zeroed)
        while 0 <= k < len(arrays):
            _adopt_closely(plan, k, arrays[k], reduce, zeroed)
            k = k + 1 if reduce else plan.engine.adopt(plan.arrays, arrays, k + 1, zeroed)
        plan.recount()
    if zeroed and plan.zeroing_may_harm():
        places = [place_of(plan, k) for k in range(len(arrays))] + [Place(rule, name) for _, name in plan.held]
        looked_at = [accept.as_array(array, place) for array, place in zip(arrays, places, strict=False)]
        overlap.check_overlaps([*looked_at, *(array for array, _ in plan.held)], places.__getitem__)
    return arrays


def place_of(plan: Plan, k: int) -> Place:
    """Names gradient k in messages."""
    return Place(plan.settings.rule, tree.shown("grads", plan.items[k].path))


def _adopt_closely(plan: Plan, k: int, array: Array | Rows, reduce: Reduce | None, zeroed: bool) -> None:
    row, place = plan.tensors[k], place_of(plan, k)
    if isinstance(array, Rows):
        _adopt_rows(plan, k, array, reduce, zeroed)
        return
    accept.check_gradient(array, plan.items[k].array, place, samples=reduce is not None)
    if zeroed:
        overlap.check_distinct(array, place)
        if not array.flags.writeable:
            place.fail(ValueError, "a writable array, to be zeroed", "a read-only one")
    _check_apart(plan, array, place)
    plan.point_to_gradient(k, array, samples=reduce is not None)
    row["scale"] = 1.0 / len(array) if reduce == "mean" else 1.0


def _adopt_rows(plan: Plan, k: int, gradient: Rows, reduce: Reduce | None, zeroed: bool) -> None:
    place, settings = place_of(plan, k), plan.settings
    if plan.queued or reduce or zeroed:
        asked = "parameters on a GPU" if plan.queued else f"reduce={reduce!r}" if reduce else "zero_grads=True"
        place.fail(TypeError, f"a dense gradient, beside {asked}", "rows")
    lazy = settings.lazy_rows(plan.rule)
    if lazy:
        rows.check_possible(plan.rule, settings, place)
    touched = rows.Touched(gradient, plan.items[k], lazy, place)
    _check_apart(plan, touched.values, place)
    plan.point_to_rows(k, touched)


def _check_apart(plan: Plan, grad: Array, place: Place) -> None:
    if grad.size:
        for array, argument in plan.neighbours(*overlap.bounds(grad)):
            overlap.check_separate(grad, array, place, Place(place.rule, argument))


class MicroBatches:
    """How much the accumulated micro-batches weigh together. How many there are is for the clock to say."""

    def __init__(self, rule: str, clock: Array) -> None:
        self._rule, self._clock = rule, clock
        self._weights = {0: 0.0}  # by their number

    def weighing(self, count: int, weight: float) -> Assignment:
        """The assignment by which so many weigh this much together."""
        return (setattr, self, "_weights", {count: weight})

    def check(self, weight: Any, dtype: held.DType) -> float:
        """The weight of a micro-batch: 0, or a number that the type of the step holds with all digits."""
        place, limits = Place(self._rule, "weight"), held.limits(dtype)
        number = real(place, weight, NON_NEGATIVE)
        if number and not limits.smallest <= number <= limits.largest:
            place.fail(ValueError, f"0 or a number that {dtype.name} can hold", f"{number:g}")
        return number

    def expect(self, weight: float) -> None:
        """Another one is about to be added. Should that fail, the clock does not move, and nothing has changed."""
        count, before = int(self._clock[MICRO_BATCHES]), self.weight
        self._weights = {count: before, count + 1: before + weight}

    def scale(self, loss_scale: Any, dtype: held.DType) -> float:
        """What turns the sum of their gradients, or gradients at hand, into the mean gradient of the loss."""
        number = real(Place(self._rule, "loss_scale"), loss_scale, POSITIVE)
        weight = self.weight if self._clock[MICRO_BATCHES] else 1.0
        if not weight:
            Place(self._rule, "weight").fail(ValueError, "micro-batches that weigh more than 0 together", "0")
        return held.gradient_scale(self._rule, number, weight, dtype)

    def check_none(self, argument: str) -> None:
        """ValueError while there are some that no step has used."""
        if self._clock[MICRO_BATCHES]:
            expected = "no accumulated micro-batches (step or discard first)"
            Place(self._rule, argument).fail(ValueError, expected, "some")

    @property
    def weight(self) -> float:
        """Of all together."""
        count = int(self._clock[MICRO_BATCHES])
        return self._weights[count] if count else 0.0


class Bound:
    """Gradient buffers that stay where they are, as `bind` named them."""

    def __init__(self) -> None:
        self.tree: Any = None  # what the user bound
        self.flat: list[Any] | None = None  # of the tensors that move; None: to be looked through again

    def at_hand(self, plan: Plan) -> bool:
        """Whether a step needs none handed in: there are these, or those that torch's parameters hold."""
        return self.flat is not None or (self.tree is None and plan.own_gradients)

    def take(self, tree: Any, collected: list[Any], plan: Plan, checked: Callable[[], Plan]) -> None:
        """Binds a structure of gradients, after every check (see `adopt`)."""
        for k, gradient in enumerate(collected):
            if touches_rows(gradient):
                place_of(plan, k).fail(
                    TypeError, "a dense gradient (rows are others in each step: step(grads))", "rows"
                )
        arrays = adopt(plan, collected, None, plan.settings.zero_grads, checked)
        shared_memory = all(accept.framework_of(g) != "torch" for g in collected)
        self.tree, self.flat = tree, arrays if shared_memory else collected

    def current(
        self, collect_again: Callable[[Any], list[Any]], planned: Callable[[], Plan], checked: Callable[[], Plan]
    ) -> list[Any] | None:
        """The bound gradients; None if there are none. Collecting them may lead to another plan."""
        if self.flat is None and self.tree is not None:
            collected = collect_again(self.tree)
            self.take(self.tree, collected, planned(), checked)
        return self.flat
