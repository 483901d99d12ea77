"""An optimizer dies with its last reference, and its memory with it: nothing waits for the garbage collector."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import device_arrays
import numpy as np
import pytest
from cases import BACKENDS, random_arrays
from device_arrays import FakeArray
from peers import Module, peer

import fastupdate as fu
from fastupdate import schedules
from fastupdate.arrays.foreign import Foreign
from fastupdate.arrays.place import Place
from fastupdate.step.tensors import Item

torch: Any = Module("torch")
SIZES = [5, 1500]


@pytest.fixture(params=[*BACKENDS, "cuda"])
def new(request: pytest.FixtureRequest) -> Iterator[Callable[[int], list[Any]]]:
    """Makes arrays for a backend; the optimizers of the test run on it."""
    if request.param == "cuda":
        with device_arrays.installed():
            yield lambda seed: [FakeArray(a) for a in host(seed)]
    else:
        yield host


def host(seed: int) -> list[np.ndarray]:
    return random_arrays(seed, SIZES, np.float32)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    name = request.node.callspec.params["new"]
    assert isinstance(name, str)
    return name


@contextmanager
def without_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


New = Callable[[int], list[Any]]


def failed(opt: fu.Optimizer, new: New) -> None:
    opt.step(new(1))
    for wrong in ([np.ones(3)], None, new(1)[:1]):
        with pytest.raises((TypeError, ValueError)):
            opt.step(wrong)


def quick(opt: fu.Optimizer, new: New) -> None:
    opt.bind(new(1))
    for _ in range(3):
        opt.step()


def lent(opt: fu.Optimizer, new: New) -> None:
    opt.step(new(1))
    with opt.ema_weights() as lent_to:
        del lent_to
    with pytest.raises(ZeroDivisionError), opt.ema_weights():
        raise ZeroDivisionError


def entered_later(opt: fu.Optimizer, new: New) -> None:
    opt.ema_weights()  # a context that nobody enters


def looked_at(opt: fu.Optimizer, new: New) -> None:
    report = opt.step(new(1))
    assert report.tensors is not None
    assert all((repr(opt), opt._repr_html_(), repr(report), report.as_dict()))
    opt.step(new(2))


def followed(opt: fu.Optimizer, new: New) -> fu.Monitor:
    """A monitor, which is kept: it has the figures, and nothing of the optimizer."""
    monitor = fu.Monitor(every=2)
    for k in range(1, 5):
        monitor(opt.step(new(k)), 1.0)
    monitor.diagnose()
    return monitor


def kept_reports(opt: fu.Optimizer, new: New) -> list[fu.Report]:
    return [opt.step(new(k)) for k in range(1, 4)]


def copied(opt: fu.Optimizer, new: New) -> fu.Optimizer:
    if isinstance(new(0)[0], FakeArray):
        pytest.skip("arrays of the stand-in cannot be copied")
    opt.step(new(1))
    return pickle.loads(pickle.dumps(copy.deepcopy(opt)))  # type: ignore[no-any-return]


def saved(opt: fu.Optimizer, new: New) -> None:
    peer("safetensors")
    with tempfile.TemporaryDirectory() as folder:
        opt.save(f"{folder}/run")
        opt.load_state_dict(fu.load(f"{folder}/run"))


def frozen(opt: fu.Optimizer, new: New) -> None:
    opt.step(new(1))
    opt.freeze("0")
    opt.step(new(2))
    opt.unfreeze("0", state=0.5)
    opt.step(new(3))


def accumulated(opt: fu.Optimizer, new: New) -> None:
    opt.accumulate(new(1))
    opt.accumulate(new(2))
    opt.step()


def loaded(opt: fu.Optimizer, new: New) -> None:
    opt.step(new(1))
    opt.load_state_dict(opt.state_dict())
    with pytest.raises(ValueError, match="rule"):
        opt.load_state_dict({**opt.state_dict(), "rule": "none"})


def shown(opt: fu.Optimizer, new: New) -> None:
    opt.step(new(1))
    assert opt.state is not None
    assert (opt.groups[0]["lr"], opt.lr) is not None
    opt.groups[0]["lr"] = 0.5
    opt.lr = schedules.cosine(0.1, 10)
    opt.step(new(2))


def skipped(opt: fu.Optimizer, new: New) -> None:
    opt.step(new(1))
    bad = new(2)
    for value in bad:
        full = np.full(value.shape, np.nan, np.float32)
        value.set(full) if isinstance(value, FakeArray) else value.__setitem__(..., full)
    assert opt.step(bad).skipped
    opt.step(new(3))


AVERAGED: dict[str, Any] = {"ema_decay": 0.5, "shadow": "float16", "lookahead": (2, 0.5)}
USES: dict[str, tuple[dict[str, Any], Callable[[fu.Optimizer, New], Any]]] = {
    "made": ({}, lambda opt, new: None),
    "stepped": ({}, lambda opt, new: [opt.step(new(k)) for k in (1, 2)]),
    "stepped as fast as can be": ({}, quick),
    "clipped": ({"clip_norm": 1.0}, lambda opt, new: [opt.step(new(k)) for k in (1, 2)]),
    "scheduled": ({"lr": schedules.plateau(0.1)}, lambda opt, new: (opt.step(new(1)), opt.lr.update(1.0))),
    "by a function": ({"lr": lambda step: 0.1}, lambda opt, new: [opt.step(new(k)) for k in (1, 2)]),
    "clipped by a schedule": ({"clip_norm": lambda step: 1.0}, lambda opt, new: opt.step(new(1))),
    "failed": (AVERAGED, failed),
    "watched": ({"monitor": True}, looked_at),
    "followed by a monitor": ({"monitor": True}, followed),
    "reports kept": ({}, kept_reports),
    "watched, reports kept": ({"monitor": True, "nonfinite": "skip"}, kept_reports),
    "copied": (AVERAGED, copied),
    "saved": (AVERAGED, saved),
    "lent": (AVERAGED, lent),
    "about to be lent": (AVERAGED, entered_later),
    "frozen": (AVERAGED, frozen),
    "accumulated": ({}, accumulated),
    "loaded": (AVERAGED, loaded),
    "shown": (AVERAGED, shown),
    "skipped": ({"nonfinite": "skip", "max_skips": 3}, skipped),
    "in groups": ({"groups": [{"params": "0", "lr": schedules.constant(0.1)}]}, quick),
    "resynced": (AVERAGED, lambda opt, new: opt.resync()),
}


def memory_of(opt: fu.Optimizer) -> list[weakref.ref[Any]]:
    """Of the optimizer, what it is made of and every array that it keeps."""
    items = opt.stepper.items
    kept = [a for item in items for a in item.slots.values()]
    parts = [opt, opt.stepper, opt.stepper.plan, opt.stepper.hypers, opt.stepper.plan.tensors, *items]
    return [weakref.ref(x) for x in (*parts, *kept)]


def living(refs: list[weakref.ref[Any]]) -> list[str]:
    return [type(ref()).__name__ for ref in refs if ref() is not None]


@pytest.mark.parametrize("use", USES)
def test_an_optimizer_dies_with_its_last_reference(use: str, new: New, backend: str) -> None:
    options, act = USES[use]
    make = partial(fu.Adam, **{"lr": 0.1, "weight_decay": 0.01, **options}, backend=backend)
    if backend == "numba":
        act(make(new(0)), new)  # compiles, of which Numba itself leaves cycles behind
    params = new(0)
    with without_collector():
        opt = make(params)
        refs = memory_of(opt)
        kept = act(opt, new)
        refs += memory_of(opt)
        del opt
        assert not living(refs)
    del kept


# -- torch ------------------------------------------------------------------------------------------------------------


def parameters() -> list[Any]:
    params = [torch.nn.Parameter(torch.tensor(a)) for a in host(0)]
    for p, a in zip(params, host(1), strict=True):
        p.grad = torch.tensor(a)
    return params


def rebound(opt: fu.Optimizer, params: list[Any]) -> None:
    opt.step()
    params[0].data = params[0].data.clone()
    opt.step()


def wrongly_rebound(opt: fu.Optimizer, params: list[Any]) -> None:
    opt.step()
    params[0].data = params[0].data.double()
    with pytest.raises((TypeError, RuntimeError)):
        opt.step()


def in_a_graph(opt: fu.Optimizer, params: list[Any]) -> None:
    opt.step()
    (params[0] * params[0]).sum().backward()
    opt.step()


TORCH: dict[str, Callable[[fu.Optimizer, list[Any]], Any]] = {
    "own gradients": lambda opt, params: [opt.step() for _ in range(3)],
    "rebound": rebound,
    "wrongly rebound": wrongly_rebound,
    "in a graph": in_a_graph,
}


@pytest.mark.peer
@pytest.mark.parametrize("use", TORCH)
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_optimizer_of_torch_parameters_dies_with_its_last_reference(use: str, backend: str) -> None:
    params = parameters()
    with without_collector():
        opt = fu.Adam(params, lr=0.1, weight_decay=0.01, ema_decay=0.5, backend=backend)
        refs = memory_of(opt)
        TORCH[use](opt, params)
        refs += memory_of(opt)
        del opt
        assert not living(refs)


@pytest.mark.peer
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_optimizer_that_a_parameter_leads_to_is_found_by_the_collector(backend: str) -> None:
    """A hook on a parameter that steps as soon as there is a gradient: a cycle of the user's."""
    p = torch.nn.Parameter(torch.ones(3))
    opt = fu.Adam([p], lr=0.1, backend=backend)
    p.leads_to = opt
    opt.bind([torch.ones(3)])
    opt.step()
    opt.step()
    refs = [*memory_of(opt), weakref.ref(p)]
    del p, opt
    gc.collect()
    assert not living(refs)


class Leading(np.ndarray):
    leads_to: Any = None


class LeadingDict(dict[str, Any]):
    leads_to: Any = None


@pytest.mark.parametrize("kind", [dict, LeadingDict])
@pytest.mark.parametrize("which", ["param", "state", "container"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_optimizer_that_an_array_or_its_container_leads_to_is_found_by_the_collector(
    backend: str, which: str, kind: type[dict[str, Any]]
) -> None:
    param, state = (np.ones(3, np.float32).view(Leading) for _ in range(2))
    params = kind(p=param)
    opt = fu.Momentum(params, lr=0.1, state={"v": {"p": state}}, backend=backend)
    leading = {"param": param, "state": state, "container": params}[which]
    if type(leading) is dict:
        pytest.skip("a plain dict leads nowhere but to what is in it")
    leading.leads_to = opt
    for _ in range(2):
        opt.step(kind(p=np.ones(3, np.float32)))
    refs = [*memory_of(opt), weakref.ref(param), weakref.ref(state)]
    del param, state, params, leading, opt
    gc.collect()
    assert not living(refs)


# -- references -------------------------------------------------------------------------------------------------------

REFERRING: dict[str, Callable[[Any, list[Any], list[Any]], Any]] = {
    "step": lambda opt, p, g: opt.step(g),
    "bound step": lambda opt, p, g: opt.step(),
    "failing step": lambda opt, p, g: opt.step([g[0], g[1].astype(np.float64)]),
    "overlapping": lambda opt, p, g: opt.step([g[0], p[1]]),
    "accumulate": lambda opt, p, g: (opt.accumulate(g), opt.discard()),
    "accumulated step": lambda opt, p, g: (opt.accumulate(g), opt.step()),
    "bind": lambda opt, p, g: opt.bind(g),
    "functional": lambda opt, p, g: fu.functional.sgd(p, g, step=1),
    "functional array": lambda opt, p, g: fu.functional.sgd(p[1], g[1], step=1),
    "functional, by an optimizer": lambda opt, p, g: fu.functional.sgd(p, g, step=1, clip_norm=1.0),
    "failing functional": lambda opt, p, g: fu.functional.sgd(p, g[:1], step=1),
}


@pytest.mark.parametrize("use", REFERRING)
@pytest.mark.parametrize("backend", BACKENDS)
def test_calls_keep_no_reference(backend: str, use: str) -> None:
    params, grads = host(0), host(1)
    opt = fu.SGD(params, lr=0.1, backend=backend)
    opt.bind(grads)

    def call() -> None:
        try:
            REFERRING[use](opt, params, grads)
        except (TypeError, ValueError):
            assert use.startswith(("failing", "overlapping"))

    def counted() -> list[int]:
        return [sys.getrefcount(x) for x in (*params, *grads, params, grads)]

    for _ in range(3):
        call()
    before = counted()
    for _ in range(100):
        call()
    assert counted() == before


def test_to_the_garbage_collector_a_parameter_is_one_object() -> None:
    params = [np.ones(3, np.float32) for _ in range(100)]

    def ours() -> int:
        return sum(type(x) in (Item, Foreign, Place) for x in gc.get_objects())

    before = ours()
    opt = fu.AdamW({"layers": params}, lr=0.1)
    assert ours() - before == len(params) + 1  # they share the place of the argument that they came in
    del opt


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_the_collector_rests_while_an_optimizer_is_made(enabled: bool, dtype: Any) -> None:
    """It would go through all that is made again and again."""
    seen = []

    class Noting(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            seen.append(gc.isenabled())
            return super().__iter__()

    (gc.enable if enabled else gc.disable)()
    try:
        with nullcontext() if dtype == np.float32 else pytest.raises(TypeError, match="int32"):
            fu.SGD(Noting([np.ones(2, dtype)]))
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
    assert not seen[-1]
