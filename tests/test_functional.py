"""`fu.functional`: one native call where a glance suffices, an optimizer elsewhere; both leave the same bits."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cases import (
    DTYPES,
    ENGINES,
    PARALLEL,
    RULE_NAMES,
    RULES,
    Case,
    Engine,
    assert_same_bits,
    by_case,
    by_dtype,
    gradients,
    random_arrays,
)

import fastupdate as fu
from fastupdate import functional, rules
from fastupdate.engines import choose
from fastupdate.engines.threads import set_num_threads
from fastupdate.step import stepper

pytestmark = pytest.mark.skipif(choose.native_problem() is not None, reason="there is no native module")

NATIVE = [engine for engine in ENGINES if engine.id.startswith("native")]
SIZES = [1, 64, 3, 1025, 17]

Call = Callable[..., fu.Report]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The optimizers that were built."""
    made: list[Any] = []
    init = stepper.Stepper.__init__

    def counted(self: Any, *args: Any) -> None:
        made.append(self)
        init(self, *args)

    monkeypatch.setattr(stepper.Stepper, "__init__", counted)
    return made


def as_list(arrays: list[Any]) -> Any:
    return arrays


def as_mapping(arrays: list[Any]) -> Any:
    return {str(k): array for k, array in enumerate(arrays)}


def first(arrays: list[Any]) -> Any:
    return arrays[0]


def states_of(case: Case, like: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """States as after some steps: another row of random numbers for each."""
    opt = case.make([a.copy() for a in like])
    for grads in gradients(11, 2, [a.size for a in like], like[0].dtype):
        opt.step([g.reshape(a.shape) for g, a in zip(grads, like, strict=True)])
    return {name: [a.copy() for a in arrays] for name, arrays in opt.state.items()}


def function_of(case: Case) -> Call:
    function: Call = getattr(functional, case.rule)
    return function


# -- the same bits ----------------------------------------------------------------------------------------------------


@by_case
@by_dtype
@pytest.mark.parametrize("engine", NATIVE)
@pytest.mark.parametrize("shown", [first, as_list, tuple], ids=["array", "list", "tuple"])
@pytest.mark.parametrize("maximize", [False, True])
def test_a_native_call_leaves_the_bits_of_an_optimizer(
    case: Case, dtype: Any, engine: Engine, shown: Callable[[Any], Any], maximize: bool, built: list[Any]
) -> None:
    engine.select()
    params = random_arrays(3, SIZES, dtype)
    states = states_of(case, params)
    ours, theirs = [p.copy() for p in params], [p.copy() for p in params]
    own = {name: [a.copy() for a in arrays] for name, arrays in states.items()}
    opt = case.make([shown(theirs)] if shown is first else theirs, maximize=maximize)
    count = len(SIZES) if shown is not first else 1
    for name, arrays in states.items():
        for target, source in zip(opt.state[name], arrays[:count], strict=True):
            target[...] = source
    opt.start_at(7)
    built.clear()
    for step, grads in enumerate(gradients(5, 3, SIZES, dtype), 7):
        keywords = {**case.kwargs, "maximize": maximize}
        report = function_of(case)(shown(ours), shown(grads), *(shown(own[n]) for n in own), step=step, **keywords)
        assert not built
        expected = opt.step(grads[:count])
        assert repr(report) == repr(expected)
        assert (type(report), report.tensors) == (fu.Report, None)
    assert_same_bits(ours[:count], theirs[:count], "parameters")
    for name in own:
        assert_same_bits(own[name][:count], list(opt.state[name]), name)
    assert_same_bits(ours[count:], params[count:], "what was not handed over")


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shown", [first, as_list], ids=["array", "list"])
def test_shared_work_leaves_the_same_bits(threads: int, shown: Callable[[Any], Any], built: list[Any]) -> None:
    def run(count: int) -> list[np.ndarray]:
        set_num_threads(count)
        p, g, m, v = (random_arrays(seed, [PARALLEL, 7], np.float32) for seed in range(4))
        v = [np.abs(a) for a in v]
        functional.adamw(shown(p), shown(g), shown(m), shown(v), step=2, lr=0.1)
        return [*p, *m, *v]

    assert_same_bits(run(threads), run(1), f"{threads} threads")
    assert not built


def test_mixed_dtypes_and_shapes_in_a_list(built: list[Any]) -> None:
    shapes = [(3, 4), (), (0, 5), (2, 3, 4)]
    kinds = [np.float32, np.float64, np.float32, np.float64]
    p, g, v = (
        [random_arrays(seed, [int(np.prod(s))], k)[0].reshape(s) for s, k in zip(shapes, kinds, strict=True)]
        for seed in range(3)
    )
    expected = [a.copy() for a in p]
    opt = fu.Momentum(expected, lr=0.1, beta=0.5, state=[[a.copy() for a in v]])
    opt.step(g)
    built.clear()
    functional.momentum(p, g, v, step=1, lr=0.1, beta=0.5)
    assert not built
    assert_same_bits(p, expected, "parameters")
    assert_same_bits(v, opt.state["v"], "velocities")


# -- what goes through an optimizer -----------------------------------------------------------------------------------

OTHERWISE: dict[str, tuple[Callable[[list[Any]], Any], dict[str, Any]]] = {
    "a mapping": (as_mapping, {}),
    "strided": (lambda arrays: [np.repeat(a, 2)[::2] for a in arrays], {}),
    "a subclass": (lambda arrays: [a.view(np.memmap) for a in arrays], {}),
    "nested": (lambda arrays: [arrays[:1], arrays[1:]], {}),
    "a schedule": (as_list, {"lr": lambda step: 0.01 * (step + 1)}),
    "a NumPy number": (as_list, {"lr": np.float32(0.25)}),
    "an option": (as_list, {"clip_norm": 0.5}),
    "monitored": (as_list, {"monitor": True}),
    "groups": (as_list, {"groups": [{"params": "0", "lr": 0.5}]}),
    "the other backend": (as_list, {"backend": "numba"}),
}


@pytest.mark.parametrize("how", OTHERWISE)
def test_other_calls_do_the_same_through_an_optimizer(how: str, built: list[Any]) -> None:
    if how == "the other backend" and choose.numba_problem():
        pytest.skip(str(choose.numba_problem()))
    shown, options = OTHERWISE[how]
    options = {"lr": 0.1, **options}
    p, g, m, v = (random_arrays(seed, SIZES, np.float32) for seed in range(4))
    v = [np.abs(a) for a in v]
    kept = as_list if how == "strided" else shown  # states are never strided
    copies = [[[a.copy() for a in arrays] for arrays in (p, m, v)] for _ in range(2)]
    ours, theirs = ([shown(arrays[0]), kept(arrays[1]), kept(arrays[2])] for arrays in copies)
    report = functional.adam(ours[0], shown(g), *ours[1:], step=5, **options)
    assert len(built) == 1
    opt = fu.Adam(theirs[0], state=theirs[1:], **options)
    opt.start_at(5)
    expected = opt.step(shown(g))
    assert (report.step, report.lr, report.grad_norm) == (expected.step, expected.lr, expected.grad_norm)
    assert (report.tensors is None) == (expected.tensors is None)
    for a, b in zip(ours, theirs, strict=True):
        assert_same_bits(list(flat(a)), list(flat(b)), how)


def flat(nested: Any) -> Iterator[np.ndarray]:
    if isinstance(nested, np.ndarray):
        yield np.asarray(nested)
        return
    for item in nested.values() if isinstance(nested, dict) else nested:
        yield from flat(item)


def test_plain_numbers_of_every_kind_are_native(built: list[Any]) -> None:
    p, g, m, v = (random_arrays(seed, [8], np.float32)[0] for seed in range(4))
    functional.adam(p, g, m, np.abs(v), step=1, lr=1, betas=(0, np.float64(0.5)), eps=1, amsgrad=False, weight_decay=0)
    assert not built


# -- lists that come again --------------------------------------------------------------------------------------------


def test_what_lay_apart_is_looked_at_again_when_it_moves() -> None:
    p, g, v = (random_arrays(seed, [6, 8], np.float32) for seed in range(3))
    for _ in range(2):
        functional.momentum(p, g, v, step=1, lr=0.1)
    inside, own = p[0][:6], g[0]
    with pytest.raises(ValueError, match=r"grads\[0\]: expected memory apart from params\[0\]"):
        functional.momentum(p, [inside, g[1]], v, step=1, lr=0.1)
    with pytest.raises(ValueError, match=r"params\[1\]: expected memory apart from params\[0\]"):
        functional.momentum([p[0], p[0]], [own, own], v, step=1, lr=0.1)
    functional.momentum(p, [g[1][:6], g[1]], v, step=1, lr=0.1)  # gradients may overlap, for they are only read
    with pytest.raises(ValueError, match=r"grads\[0\]: expected memory apart from state\['v'\]\[0\]"):
        functional.momentum(p, [v[0], g[1]], v, step=1, lr=0.1)


def test_lists_of_several_rules_take_turns(built: list[Any]) -> None:
    """What one call leaves behind for the next must not reach it."""
    p, g, m, v = (random_arrays(seed, [6, 8], np.float32) for seed in range(4))
    v = [np.abs(a) for a in v]
    runs = []
    for calls in (1, 3):
        a, b = ([array.copy() for array in p] for _ in range(2))
        ms, vs, bs = ([array.copy() for array in arrays] for arrays in (m, v, m))
        for _ in range(calls):
            functional.adam([a[0]], [g[0]], [ms[0]], [vs[0]], step=1, lr=0.1)
            functional.sgd(b, g, step=1, lr=0.1)
            functional.sgd(b, g, bs, step=1, lr=0.1, momentum=0.5)
            functional.adam(a, g, ms, vs, step=2, lr=0.1)
        runs.append([*a, *b, *ms, *vs, *bs])
    for k in range(len(runs[0])):
        assert runs[0][k].tobytes() != runs[1][k].tobytes()
    assert not built
    python = {cls: functional.in_python(cls) for cls in (fu.Adam, fu.SGD)}
    a, b = ([array.copy() for array in p] for _ in range(2))
    ms, vs, bs = ([array.copy() for array in arrays] for arrays in (m, v, m))
    python[fu.Adam]([a[0]], [g[0]], [ms[0]], [vs[0]], step=1, lr=0.1)
    python[fu.SGD](b, g, step=1, lr=0.1)
    python[fu.SGD](b, g, bs, step=1, lr=0.1, momentum=0.5)
    python[fu.Adam](a, g, ms, vs, step=2, lr=0.1)
    assert_same_bits(runs[0], [*a, *b, *ms, *vs, *bs], "native and through optimizers")


def test_calls_keep_nothing_alive() -> None:
    p, g, m, v = (random_arrays(seed, [6, 8], np.float32) for seed in range(4))
    big = [np.zeros(200_000, np.float32) for _ in range(3)]

    def call() -> None:
        functional.adam(p, g, m, [np.abs(a) for a in v], step=1, lr=0.1)
        functional.adam(p[0], g[0], m[0], np.abs(v[0]), step=1, lr=0.1)
        functional.momentum([big[0]], [big[1]], [big[2]], step=1, lr=0.1)  # other threads run meanwhile

    call()
    counts = [sys.getrefcount(a) for a in (*p, *g, *m, *big, functional.adam)]
    blocks = sys.getallocatedblocks()
    for _ in range(1000):
        call()
    assert [sys.getrefcount(a) for a in (*p, *g, *m, *big, functional.adam)] == counts
    assert sys.getallocatedblocks() - blocks < 100


DROPPED = """
import threading, numpy as np
from fastupdate import functional
n, stop = 50_000, threading.Event()
def lists(): return [[np.ones(n, np.float32) for _ in range(8)] for _ in range(4)]
current = lists()
def drop():
    while not stop.is_set():
        for row in current: row.clear()
thread = threading.Thread(target=drop)
thread.start()
for _ in range(200):
    current[:] = lists()
    try: functional.adam(*current, step=1, lr=0.1)
    except (ValueError, TypeError): pass
stop.set(); thread.join()
print("alive")
"""


def test_arrays_that_another_thread_drops_stay_until_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


FIRST = """
import operator, sys, threading, numpy as np
from functools import partial
from fastupdate import functional
rows = [[np.ones(50_000, np.float32) for _ in range(8)] for _ in range(4)]
call = partial(functional.adam, *rows, step=1, lr=0.1)
gate = threading.Lock()
gate.acquire()
def drop():
    gate.acquire()
    for row in rows: row.clear()
thread = threading.Thread(target=drop)
thread.start()
sys.setswitchinterval(1e-6)
# While `sum` counts, the thread comes to wait for the GIL; between these calls nothing looks whether one does.
list(map(operator.call, [gate.release, partial(sum, range(3_000_000)), call]))
thread.join()
print("alive")
"""


def test_the_first_call_lets_no_thread_drop_what_it_looks_at() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_threads_call_at_once() -> None:
    """Each thread has records of its own."""
    problems = []

    def work(seed: int) -> None:
        p, g, v = (random_arrays(seed + k, [40_000, 9], np.float32) for k in range(3))
        q, w = [a.copy() for a in p], [a.copy() for a in v]
        for step in range(1, 20):
            functional.momentum(p, g, v, step=step, lr=0.01)
        opt = fu.Momentum(q, lr=0.01, state=[w])
        for _ in range(1, 20):
            opt.step(g)
        if any(a.tobytes() != b.tobytes() for a, b in zip([*p, *v], [*q, *w], strict=True)):
            problems.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 11, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


# -- how they look ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_help_shows_arguments_states_and_formula(rule: str) -> None:
    function, cls = getattr(functional, rule), rules.get(rule)
    parameters = inspect.signature(function).parameters
    own = [
        p for p in inspect.signature(cls.__init__).parameters.values() if p.name not in ("self", "params", "options")
    ]
    assert list(parameters) == ["params", "grads", "states", "step", *(p.name for p in own), "options"]
    assert [parameters[p.name].default for p in own] == [p.default for p in own]
    assert (function.__name__, function.__module__) == (rule, "fastupdate.functional")
    assert cls.__doc__.splitlines()[0] in inspect.getdoc(function)
    assert all(f"\n{state} " in function.__doc__ for state in cls.rule.states)


def test_the_module_offers_the_rules() -> None:
    assert dir(functional) == RULE_NAMES == sorted(functional.__all__)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_float32_cannot_hold_goes_where_it_is_looked_at_closely(dtype: Any, built: list[Any]) -> None:
    p, g = random_arrays(0, [3, 3], dtype)
    functional.sgd(p, g, step=1, lr=1e-60)
    assert built
