"""The user's containers are live: what he puts into them after an optimizer was made of them is noticed."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict, UserDict, UserList, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, exactly, random_arrays
from peers import Module

import fastupdate as fu
from fastupdate.arrays.containers import Containers
from fastupdate.arrays.tree import DEEPEST

torch: Any = Module("torch")
by_host_backend = pytest.mark.parametrize("backend", BACKENDS)


def arrays(seed: int) -> list[np.ndarray]:
    return random_arrays(seed, [3, 3, 3], np.float32)


def as_dict(values: list[Any]) -> dict[str, Any]:
    return dict(zip("abc", values, strict=True))


# What users hold parameters in, and the path of the second one.
HOLDERS: dict[str, tuple[Callable[[list[Any]], Any], tuple[Any, ...]]] = {
    "list": (list, (1,)),
    "dict": (as_dict, ("b",)),
    "ordered dict": (lambda values: OrderedDict(as_dict(values)), ("b",)),
    "default dict": (lambda values: defaultdict(None, as_dict(values)), ("b",)),
    "user's dict": (lambda values: UserDict(as_dict(values)), ("b",)),
    "user's list": (UserList, (1,)),
    "nested": (lambda values: {"x": (values[0], [values[1], values[2]])}, ("x", 1, 0)),
    "list in a dict in a list": (lambda values: [{"x": values}], (0, "x", 1)),
}


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def put(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    at(tree, path[:-1])[path[-1]] = value


# Each way to take a step, given an optimizer and gradients.
STEPS: dict[str, tuple[Callable[[Any, Any], None], Callable[[Any, Any], None]]] = {
    "handed in": (lambda opt, grads: opt.step(grads), lambda opt, grads: opt.step(grads)),
    "bound": (lambda opt, grads: (opt.bind(grads), opt.step()), lambda opt, grads: opt.step()),
    "accumulated": (lambda opt, grads: opt.accumulate(grads), lambda opt, grads: opt.step()),
}


@by_host_backend
@pytest.mark.parametrize("how", STEPS)
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}], ids=["plain", "clipped"])
def test_another_array_is_named_and_nothing_moves(backend: str, how: str, holder: str, options: Any) -> None:
    make, path = HOLDERS[holder]
    params, grads = make(arrays(0)), make(arrays(1))
    opt = fu.Adam(params, lr=0.1, weight_decay=0.01, backend=backend, **options)
    opt.step(make(arrays(2)))
    begin, go_on = STEPS[how]
    begin(opt, grads)
    own, before, step_count = at(params, path), exactly(opt.state_dict()), opt.step_count
    put(params, path, own * 0.5)
    name = "params" + "".join(f"[{key!r}]" for key in path)
    words = f"[adam] {name}: expected the array that the optimizer was made for ({name}[...] = x sets it)"
    other = [a.copy() for a in (own, at(params, path))]
    for call in (lambda: go_on(opt, grads), opt.state_dict, opt.resync, lambda: opt.bind(grads)):
        with pytest.raises(ValueError, match="adam") as caught:
            call()
        assert str(caught.value) == f"{words}, received another one"
    assert exactly([own, at(params, path)]) == exactly(other)
    put(params, path, own)
    assert exactly(opt.state_dict()) == before
    go_on(opt, grads)
    assert opt.step_count == step_count + 1


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "added": (lambda p: p.update(d=np.ones(2, np.float32)), r"params\['d'\]: expected nothing.*, received an array"),
    "removed": (lambda p: p.pop("b"), r"params\['b'\]: expected the array .*, received none"),
    "renamed": (lambda p: p.update(d=p.pop("c")), r"params\['c'\]: expected the array .*, received none"),
    "swapped": (lambda p: p.update(a=p["b"], b=p["a"]), r"params\['a'\]: expected the array .*, received another one"),
    "nested": (lambda p: p.update(b=[p["b"]]), r"params\['b'\]: expected the array .*, received none"),
    "emptied": (lambda p: p.clear(), r"params\['a'\]: expected the array .*, received none"),
}


@by_host_backend
@pytest.mark.parametrize("change", CHANGES)
def test_another_structure_is_named(backend: str, change: str) -> None:
    params, grads = as_dict(arrays(0)), as_dict(arrays(1))
    opt = fu.Adam(params, lr=0.1, weight_decay=0.01, backend=backend)
    opt.step(grads)
    opt.step(grads)
    act, words = CHANGES[change]
    act(params)
    for call in (
        lambda: opt.step(grads),
        lambda: opt.step(dict(params)),
        lambda: opt.state,
        opt.state_dict,
        lambda: opt.freeze("*"),
    ):
        with pytest.raises(ValueError, match=rf"^\[adam\] {words}$"):
            call()
    assert opt.step_count == 2


@by_host_backend
def test_a_reversed_list_does_not_cross_gradients(backend: str) -> None:
    params, grads = arrays(0), arrays(1)
    opt = fu.SGD(params, lr=0.1, backend=backend)
    opt.step(grads)
    before = exactly(params)
    params.reverse()
    with pytest.raises(ValueError, match=r"^\[sgd\] params\[0\]: expected the array .*, received another one$"):
        opt.step(grads)
    params.reverse()
    assert exactly(params) == before


@by_host_backend
def test_what_is_the_same_array_all_the_same_is_none_of_these(backend: str) -> None:
    """In-place operators assign the array that was there; a view of all of it is the same memory."""
    params, grads = as_dict(arrays(0)), as_dict(arrays(1))
    opt = fu.SGD(params, lr=0.1, weight_decay=0.01, backend=backend)
    for act in (
        lambda: params.__setitem__("a", params["a"][:]),
        lambda: params.update(c=params.pop("c")),  # and in another order
        lambda: params.update(a=params.pop("a")),
    ):
        act()
        params["b"] *= 0.5
        before = {name: array.copy() for name, array in params.items()}
        opt.step(grads)
        for name, array in params.items():
            assert not (array == before[name]).any()


@by_host_backend
def test_a_container_that_makes_views_when_it_is_asked_can_be_used(backend: str) -> None:
    class Rows(UserList):  # type: ignore[type-arg]
        def __getitem__(self, k: Any) -> Any:
            return self.data[k][:]

        def __iter__(self) -> Any:
            return (self[k] for k in range(len(self)))

    params = Rows(arrays(0))
    opt = fu.SGD(params, lr=0.1, weight_decay=0.01, backend=backend)
    for seed in (1, 2):
        before = exactly(params.data)
        opt.step(arrays(seed))
        assert exactly(params.data) != before
    params.data[1] = np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"^\[sgd\] params\[1\]: expected the array .*, received another one$"):
        opt.step(arrays(3))


@pytest.mark.peer
@by_host_backend
def test_another_parameter_of_torch_is_named_with_its_remedy(backend: str) -> None:
    params = {name: torch.nn.Parameter(torch.ones(2)) for name in "ab"}
    opt = fu.SGD(params, lr=1.0, backend=backend)
    for p in params.values():
        p.grad = torch.ones(2)
    opt.step()
    opt.step()
    params["b"] = torch.nn.Parameter(torch.ones(2))
    words = r"^\[sgd\] params\['b'\]: expected the array .* \(params\['b'\].data = x sets it\), received another one$"
    with pytest.raises(ValueError, match=words):
        opt.step()
    assert params["a"].tolist() == [-1.0, -1.0]


@by_host_backend
def test_copies_look_at_containers_of_their_own(backend: str) -> None:
    params, grads = as_dict(arrays(0)), as_dict(arrays(1))
    opt = pickle.loads(pickle.dumps(fu.SGD(params, lr=0.1, backend=backend)))
    params["a"] = np.zeros(3, np.float32)
    opt.step(grads)
    opt.params["a"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"params\['a'\]: expected the array .*, received another one"):
        opt.step(grads)


# Gradients for nested parameters, and whether the native module finds them by itself.
SHAPED: dict[str, tuple[Callable[[list[Any]], Any], bool]] = {
    "alike": (lambda g: {"x": (g[0], [g[1], g[2]]), "y": {"a": g[3], 7: [g[4]]}, "z": g[5]}, True),
    "other order": (lambda g: {"z": g[5], "y": {7: [g[4]], "a": g[3]}, "x": (g[0], [g[1], g[2]])}, True),
    "lists and tuples": (lambda g: {"x": [g[0], (g[1], g[2])], "y": {"a": g[3], 7: (g[4],)}, "z": g[5]}, True),
    "None": (lambda g: {"x": (g[0], [None, g[2]]), "y": {"a": g[3], 7: [g[4]]}, "z": g[5]}, True),
    "memoryviews": (lambda g: {"x": (g[0], [g[1], g[2]]), "y": {"a": g[3], 7: [g[4].data]}, "z": g[5]}, True),
    "text": (lambda g: {"x": (g[0], ["g", g[2]]), "y": {"a": g[3], 7: [g[4]]}, "z": g[5]}, True),
    "user's dict": (lambda g: {"x": (g[0], [g[1], g[2]]), "y": UserDict({"a": g[3], 7: [g[4]]}), "z": g[5]}, False),
    "dict for a list": (lambda g: {"x": {0: g[0], 1: g[1:3]}, "y": {"a": g[3], 7: [g[4]]}, "z": g[5]}, False),
    "missing": (lambda g: {"x": (g[0], [g[1]]), "y": {"a": g[3], 7: [g[4]]}, "z": g[5]}, False),
    "extra": (lambda g: {"x": (g[0], [g[1], g[2]]), "y": {"a": g[3], 7: [g[4]], "b": g[0]}, "z": g[5]}, False),
    "another name": (lambda g: {"x": (g[0], [g[1], g[2]]), "y": {"b": g[3], 7: [g[4]]}, "z": g[5]}, False),
    "container for an array": (lambda g: {"x": (g[0], [g[1], g[2]]), "y": {"a": g[3], 7: [g[4]]}, "z": [g[5]]}, False),
    "user's list for an array": (
        lambda g: {"x": (g[0], [g[1], g[2]]), "y": {"a": g[3], 7: [g[4]]}, "z": UserList([g[5]])},
        False,
    ),
    "array for a container": (lambda g: {"x": g[0], "y": {"a": g[3], 7: [g[4]]}, "z": g[5]}, False),
    "an array": (lambda g: g[0], False),
    "an odd key": (lambda g: {"x": (g[0], [g[1], g[2]]), "y": {"a": g[3], Odd(): [g[4]]}, "z": g[5]}, False),
}


class Odd:
    """A key that no one can compare."""

    def __hash__(self) -> int:
        return hash(7)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("odd")


@pytest.mark.parametrize("frozen", [None, "y.a"])
@pytest.mark.parametrize("missing", ["raise", "skip"])
@pytest.mark.parametrize("shape", SHAPED)
def test_structures_are_read_alike_by_the_native_module_and_by_python(
    shape: str, missing: str, frozen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, native = SHAPED[shape]
    seen = []
    for without in (False, True):
        if without:
            monkeypatch.setattr(Containers, "leaves_of", lambda self, tree: None)
        params = SHAPED["alike"][0](random_arrays(0, [3] * 6, np.float32))
        opt = fu.Adam(params, lr=0.1, weight_decay=0.01, missing=missing)
        if frozen:
            opt.freeze(frozen)
        grads = make(random_arrays(1, [3] * 6, np.float32))
        try:
            assert without or (Containers(params).leaves_of(grads) is not None) == native
            opt.step(grads)
            seen.append(exactly(params))
        except (TypeError, ValueError, RuntimeError) as error:
            seen.append((type(error), str(error), exactly(params)))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "names", ["left mid right", "right left mid", "left right mid", "left mid", "left mid rihgt", "left mid right more"]
)
def test_gradients_in_a_dict_are_found_by_name(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for without in (False, True):
        if without:
            monkeypatch.setattr(Containers, "leaves_of", lambda self, tree: None)
        params = dict(zip(["left", "mid", "right"], random_arrays(0, [3] * 3, np.float32), strict=True))
        opt = fu.Adam(params, lr=0.1, weight_decay=0.01)
        grads = dict(zip(names.split(), random_arrays(1, [3] * 4, np.float32), strict=False))
        try:
            opt.step(grads)
            seen.append(exactly(params))
        except ValueError as error:
            seen.append((str(error), exactly(params)))
    assert seen[0] == seen[1]


def within(container: Callable[[Any], Any], depth: int) -> Any:
    """An array in so many containers within each other."""
    nest: Any = np.ones(3, np.float32)
    for _ in range(depth):
        nest = container(nest)
    return nest


def holding_itself(container: Any, put_in: Callable[[Any, Any], Any], between: Callable[[Any], Any]) -> Any:
    """A container that holds itself within another container."""
    put_in(container, between(container))
    return container


def kept(container: Any) -> Any:
    return container


TOO_DEEP: dict[str, Callable[[], Any]] = {
    "list in itself": lambda: holding_itself([np.ones(3, np.float32)], list.append, kept),
    "list of itself alone": lambda: holding_itself([], list.append, lambda found: (found,)),
    "dict in itself": lambda: holding_itself({"a": np.ones(3, np.float32)}, lambda d, found: d.update(b=found), kept),
    "list in a dict in itself": lambda: holding_itself([], list.append, lambda found: {"x": (found,)}),
    "user's list in itself": lambda: holding_itself(UserList(), UserList.append, kept),
    "deep lists": lambda: within(lambda nest: [nest], DEEPEST + 1),
    "deeper dicts": lambda: within(lambda nest: {"x": nest}, 100_000),
}

# Who is handed them: an optimizer of {"x": [array]}, and what messages call the argument.
DEEP_TAKERS: dict[str, tuple[Callable[[fu.Optimizer, Any], Any], str]] = {
    "params": (lambda opt, nest: fu.Adam(nest), "[adam] params"),
    "params of a group": (lambda opt, nest: fu.Adam([{"params": nest}]), "[adam] params[0]['params']"),
    "params of a partition": (lambda opt, nest: fu.Partition(nest, [("*", fu.Adam)]), "[partition] params"),
    "params of two rules": (lambda opt, nest: fu.Muon(nest, others=fu.Adam), "[muon] params"),
    "params of a function": (lambda opt, nest: fu.functional.sgd(nest, nest, step=1), "[sgd] params"),
    "params of no_decay": (lambda opt, nest: fu.groups.no_decay(nest), "[no_decay] params"),
    "grads": (lambda opt, nest: opt.step(nest), "[adam] grads"),
    "grads of a partition": (
        lambda opt, nest: fu.Partition({"w": np.ones(3)}, [("*", fu.Adam)]).step(nest),
        "[partition] grads",
    ),
    "bound grads": (lambda opt, nest: opt.bind(nest), "[adam] grads"),
    "a micro-batch": (lambda opt, nest: opt.accumulate(nest), "[adam] grads"),
    "a pattern": (lambda opt, nest: opt.freeze([nest]), "[adam] pattern"),
    "a group's pattern": (
        lambda opt, nest: fu.Adam(opt.params, groups=[{"params": nest}]),
        "[adam] groups[0]['params']",
    ),
}


@pytest.mark.parametrize("taker", DEEP_TAKERS)
@pytest.mark.parametrize("nest", TOO_DEEP)
@by_host_backend
def test_containers_without_end_are_refused(backend: str, nest: str, taker: str) -> None:
    params = {"x": [np.ones(3, np.float32)]}
    opt = fu.Adam(params, backend=backend)
    opt.step({"x": [np.ones(3, np.float32)]})
    before = exactly(opt.state_dict()), exactly(params)
    take, argument = DEEP_TAKERS[taker]
    with pytest.raises(ValueError, match=f"^{re.escape(argument)}: expected at most {DEEPEST} containers within each"):
        take(opt, TOO_DEEP[nest]())
    assert (exactly(opt.state_dict()), exactly(params)) == before
    assert opt.step({"x": [np.ones(3, np.float32)]}).step == 2


LATER: dict[str, Callable[[Any], Any]] = {
    "step": lambda opt: opt.step([np.ones(3, np.float32)]),
    "average": lambda opt: opt.ema,
    "checkpoint": lambda opt: opt.state_dict(),
}


@pytest.mark.parametrize("call", LATER)
@pytest.mark.parametrize("kind", [fu.Adam, lambda params, **options: fu.Partition(params, [("*", fu.Adam)], **options)])
def test_containers_that_come_to_hold_themselves_are_refused(kind: Callable[..., Any], call: str) -> None:
    params: list[Any] = [np.ones(3, np.float32)]
    opt = kind(params, ema_decay=0.9)
    params.append(params)
    with pytest.raises(ValueError, match="params: expected at most"):
        LATER[call](opt)
    params.pop()
    assert opt.step([np.ones(3, np.float32)]).step == 1


@by_host_backend
def test_containers_may_be_as_deep_as_that(backend: str) -> None:
    params = within(lambda nest: {"x": nest}, DEEPEST)
    opt = fu.Adam(params, backend=backend, ema_decay=0.9)
    for gradients in (within(lambda nest: {"x": nest}, DEEPEST), within(lambda nest: UserDict(x=nest), DEEPEST)):
        opt.step(gradients)
    copied = pickle.loads(pickle.dumps(opt))
    assert exactly(copied.state_dict()) == exactly(opt.state_dict())
    assert [len(name) for name in opt.freeze("*")] == [2 * DEEPEST - 1]
