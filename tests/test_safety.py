"""What a step reads or writes is looked at in that step: nothing freed, retyped or locked since, and no overlap."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, assert_same_bits, fingerprint, random_arrays

import fastupdate as fu

by_host_backend = pytest.mark.parametrize("backend", BACKENDS)

N = 5000


class Sub(np.ndarray):
    """A subclass: a header of the user's own over its memory."""


def arrays(seed: int, *sizes: int) -> list[np.ndarray]:
    return random_arrays(seed, list(sizes), np.float32)


def owned(values: np.ndarray, kind: type[np.ndarray] = np.ndarray) -> np.ndarray:
    """A copy of `kind` that owns its memory, so that it can be resized."""
    array = kind(values.shape, values.dtype)
    array[...] = values
    return array


# -- arrays that change between two steps -----------------------------------------------------------------------------

CHANGES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], str]] = {
    "smaller": (lambda a: a.resize(10, refcheck=False), lambda a: a.resize(N, refcheck=False), "a resized one"),
    "larger": (lambda a: a.resize(40 * N, refcheck=False), lambda a: a.resize(N, refcheck=False), "a resized one"),
    "dtype": (lambda a: setattr(a, "dtype", np.int32), lambda a: setattr(a, "dtype", np.float32), "one of int32"),
    "halves": (lambda a: setattr(a, "dtype", np.float16), lambda a: setattr(a, "dtype", np.float32), "a resized one"),
    "shape": (
        lambda a: setattr(a, "shape", (50, -1)),
        lambda a: setattr(a, "shape", (-1,)),
        r"one of shape \(50, 100\)",
    ),
    "read-only": (lambda a: a.setflags(write=False), lambda a: a.setflags(write=True), "a read-only one"),
}
WRITTEN = ["params[1]", "state['m'][1]", "state['v'][1]"]


@by_host_backend
@pytest.mark.filterwarnings("ignore:Setting the (shape|dtype):DeprecationWarning")
@pytest.mark.parametrize("kind", [np.ndarray, Sub], ids=["array", "subclass"])
@pytest.mark.parametrize("which", WRITTEN)
@pytest.mark.parametrize("change", CHANGES)
def test_an_array_that_was_changed_is_named_and_nothing_moves(
    backend: str, kind: type[np.ndarray], which: str, change: str
) -> None:
    p, m, v, g = ([owned(a, kind) for a in arrays(seed, 7, N)] for seed in range(4))
    for a in v:
        np.abs(a, out=a)
    opt = fu.Adam(p, lr=0.1, weight_decay=0.01, state={"m": m, "v": v}, backend=backend)
    for _ in range(2):  # the second is as fast as steps get
        opt.step([np.asarray(a) for a in g])
    target = {"params[1]": p, "state['m'][1]": m, "state['v'][1]": v}[which][1]
    act, undo, words = CHANGES[change]
    act(target)
    before = [np.asarray(a).tobytes() for a in (*p, *m, *v, *g)]
    plain = [np.asarray(a) for a in g]
    for call in (lambda: opt.step(plain), lambda: opt.accumulate(plain), opt.state_dict):
        with pytest.raises(ValueError, match=f"^.adam. {which}: expected .*, received {words}$".translate(BRACKETS)):
            call()
    assert [np.asarray(a).tobytes() for a in (*p, *m, *v, *g)] == before
    assert opt.step_count == 2
    undo(target)
    if "resized" not in words or change == "halves":  # back where it was
        opt.step(plain)
        assert opt.step_count == 3


BRACKETS = {ord("["): r"\["} | {ord("]"): r"\]"}


@by_host_backend
@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_a_reshaped_parameter_is_named_even_if_its_gradient_has_the_new_shape(backend: str) -> None:
    p, g = arrays(0, 64)[0], arrays(1, 64)[0]
    opt = fu.SGD([p], lr=0.1, backend=backend)
    opt.step([g])
    p.shape = (8, 8)
    before = p.copy()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"params\[0\]: expected the array .*, received one of shape \(8, 8\)"):
            opt.step([g.reshape(8, 8)])
    assert_same_bits(p, before, "after the error")


@by_host_backend
def test_accumulated_steps_look_at_what_they_write(backend: str) -> None:
    p, g = owned(arrays(0, N)[0]), arrays(1, N)[0]
    opt = fu.SGD([p], lr=0.1, backend=backend)
    opt.accumulate([g])
    p.resize(10, refcheck=False)
    with pytest.raises(ValueError, match=r"params\[0\]: expected the array .*, received a resized one"):
        opt.step()


# What was freed is used again at once, so that writing to it is a crash, or shows in what is there now.
FREED = """
import numpy as np, fastupdate as fu
class Sub(np.ndarray): pass
def new(value=1.0, kind=np.ndarray):
    array = kind(n, np.float32)
    array[...] = value
    return array
def attempt(call):
    try: call()
    except ValueError as error: print(error)
    else: print("taken")
n = 5000
kind = {kind}
p, m, v, g = new(1, kind), new(0, kind), new(0, kind), new()
opt = fu.Adam([p], state={{"m": [m], "v": [v]}}, backend={backend!r})
opt.step([g])
{target}.resize(10, refcheck=False)
guards = [np.zeros(n, np.float32) for _ in range(50)]
for _ in range(20): attempt(lambda: opt.step([g]))
assert not any(guard.any() for guard in guards), "somebody else's memory was written"
del opt, p, m, v, guards
print("alive")
"""


@by_host_backend
@pytest.mark.parametrize("kind", ["np.ndarray", "Sub"])
@pytest.mark.parametrize("target", ["p", "m", "v"])
def test_freed_memory_is_not_written(backend: str, kind: str, target: str) -> None:
    script = FREED.format(kind=kind, target=target, backend=backend)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("received a resized one") == 20
    assert done.stdout.endswith("alive\n")


@by_host_backend
@pytest.mark.filterwarnings("ignore:Setting the (shape|dtype):DeprecationWarning")
def test_what_is_handed_out_can_be_retyped_and_locked_without_harm(backend: str) -> None:
    g = arrays(1, 64)
    runs = []
    for meddle in (False, True):
        p = arrays(0, 64)
        opt = fu.Adam(p, lr=0.1, weight_decay=0.01, ema_decay=0.9, shadow="float16", backend=backend)
        for _ in range(3):
            opt.step(g)
            if meddle:
                for array in (opt.state["m"][0], opt.state["v"][0], opt.ema[0], opt.shadow[0]):
                    array.flags.writeable = False
                    array.shape = (8, -1)
                    array.dtype = np.uint8
                    for owner in (array, array.base):
                        with pytest.raises(ValueError, match="does not own its data"):
                            owner.resize(1, refcheck=False)
        runs.append([*p, opt.state["m"][0], opt.state["v"][0], opt.ema[0], opt.shadow[0]])
    assert_same_bits(runs[0], runs[1], "with and without meddling")


@by_host_backend
def test_what_is_handed_out_is_live(backend: str) -> None:
    p, g = arrays(0, 64), arrays(1, 64)
    opt = fu.Momentum(p, lr=0.1, beta=0.5, backend=backend)
    opt.step(g)
    opt.state["v"][0][...] = 0
    before = p[0].copy()
    opt.step(g)
    assert_same_bits(p[0], before + np.float32(-0.1) * g[0], "the velocity was cleared")


# -- gradients that overlap -------------------------------------------------------------------------------------------


@by_host_backend
def test_a_gradient_at_an_address_that_was_fine_is_looked_at_again(backend: str) -> None:
    """The same first byte, but now it reaches into the parameter."""
    base = np.ones(40, np.float32)
    opt = fu.SGD([base[1::2]], lr=1.0, backend=backend)
    opt.step([base[::2]])
    before = base.copy()
    with pytest.raises(ValueError, match=r"\[sgd\] grads\[0\]: expected memory apart from params\[0\]"):
        opt.step([base[:20]])
    assert_same_bits(base, before, "after the error")
    opt.step([base[::2]])
    assert opt.step_count == 2


@by_host_backend
@pytest.mark.parametrize("kept", ["ema", "shadow", "m"])
def test_a_gradient_in_memory_that_the_step_writes_is_refused(backend: str, kept: str) -> None:
    p, g = arrays(0, 32, 64), arrays(1, 32, 64)
    opt = fu.Adam(p, lr=0.1, ema_decay=0.9, shadow="float16", backend=backend)
    inside = {"ema": opt.ema[0], "shadow": opt.shadow[1].view(np.float32), "m": opt.state["m"][0]}[kept]
    opt.step(g)
    before = fingerprint(opt)
    with pytest.raises(ValueError, match=rf"grads\[0\]: expected memory apart from .*{kept}"):
        opt.step([inside, g[1]])
    assert fingerprint(opt) == before
