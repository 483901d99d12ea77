"""What a step reads or writes is looked at in that step: nothing that was freed, retyped, locked or rebound since."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS, assert_same_bits, by_backend, fingerprint, random_arrays
from peers import Module

import fastupdate as fu
from fastupdate import functional
from fastupdate.engines import choose

torch: Any = Module("torch")
needs_torch = pytest.mark.peer
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


# -- torch parameters that are rebound --------------------------------------------------------------------------------


def parameter(values: Any) -> Any:
    return torch.nn.Parameter(torch.as_tensor(values, dtype=torch.float32))


@needs_torch
@by_backend
def test_a_failed_step_loses_nothing_of_what_it_had_followed(backend: str) -> None:
    """The first was rebound well, the second badly: after the repair both are updated."""
    a, b = parameter([1.0, 2.0]), parameter([3.0, 4.0])
    opt = fu.SGD([a, b], lr=1.0, backend=backend)
    new_a, good_b = torch.tensor([10.0, 20.0]), b.data
    a.data, b.data = new_a, torch.tensor([1.0, 2.0, 3.0])
    a.grad, b.grad = torch.ones(2), torch.ones(3)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"\[sgd\] params\[1\]: expected shape \(2,\), received shape \(3,\)"):
            opt.step()
        assert a.tolist() == [10.0, 20.0]
    b.grad, b.data = None, good_b
    b.grad = torch.ones(2)
    opt.step()
    assert (a.tolist(), new_a.tolist(), b.tolist()) == ([9.0, 19.0], [9.0, 19.0], [2.0, 3.0])


@needs_torch
@by_backend
def test_a_failed_assembly_is_made_again(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a = parameter([1.0, 2.0])
    opt = fu.SGD([a], lr=1.0, backend=backend)
    a.data, a.grad = torch.tensor([10.0, 20.0]), torch.ones(2)
    module = choose._load(backend)

    def out_of_memory(*_: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(module, "make_plan", out_of_memory)
        with pytest.raises(MemoryError):
            opt.step()
    assert a.tolist() == [10.0, 20.0]
    opt.step()
    assert a.tolist() == [9.0, 19.0]


@needs_torch
@by_backend
def test_a_transposed_parameter_is_followed(backend: str) -> None:
    w = parameter(np.zeros((2, 2)))
    opt = fu.SGD([w], lr=1.0, backend=backend)
    w.data = w.data.t()
    w.grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    opt.step()
    assert w.tolist() == [[-1.0, -2.0], [-3.0, -4.0]]


@needs_torch
@by_backend
def test_a_parameter_of_other_strides_at_the_same_address_is_followed(backend: str) -> None:
    base = torch.zeros(8)
    w = torch.nn.Parameter(base[:4])
    opt = fu.SGD([w], lr=1.0, backend=backend)
    w.data, w.grad = base[::2], torch.ones(4)
    opt.step()
    assert base.tolist() == [-1, 0, -1, 0, -1, 0, -1, 0]


@needs_torch
@by_backend
@pytest.mark.parametrize("frozen", [False, True], ids=["moving", "frozen"])
def test_the_same_memory_twice_is_refused_whenever_it_happens(backend: str, frozen: bool) -> None:
    a, b = parameter([1.0, 2.0]), parameter([3.0, 4.0])
    opt = fu.SGD([a, b], lr=1.0, backend=backend)
    if frozen:
        opt.freeze("0")
    own, b.data = b.data, a.data
    a.grad, b.grad = torch.ones(2), torch.ones(2)
    with pytest.raises(ValueError, match=r"\[sgd\] params\[1\]: expected memory apart from params\[0\]"):
        opt.step()
    assert (a.tolist(), opt.step_count) == ([1.0, 2.0], 0)
    b.data = own
    opt.step()
    assert (a.tolist(), b.tolist()) == ([1.0, 2.0] if frozen else [0.0, 1.0], [2.0, 3.0])


@needs_torch
@by_backend
def test_an_empty_tensor_does_not_make_the_plan_anew(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = [parameter(np.ones(n)) for n in (3, 0, 2)]
    opt = fu.SGD(params, lr=1.0, backend=backend)
    made = []
    monkeypatch.setattr(choose._load(backend), "make_plan", lambda *_: made.append(1))
    for _ in range(3):
        for p in params:
            p.grad = torch.ones_like(p)
        opt.step()
    assert (made, [p.tolist() for p in params]) == ([], [[-2.0] * 3, [], [-2.0] * 2])


@needs_torch
@by_backend
@pytest.mark.parametrize("size", [0, 4], ids=["freed", "too small"])
def test_a_tensor_whose_storage_was_freed_is_refused(backend: str, size: int) -> None:
    gone, w = torch.ones(1000), parameter(np.ones(1000))
    gone.untyped_storage().resize_(size)
    words = "cannot share the memory of .*: it(s storage was freed or is too small| has no memory of its own)"
    with pytest.raises(TypeError, match=rf"params\[0\]: {words}"):
        fu.SGD([gone], backend=backend)
    opt = fu.SGD([w], lr=1.0, backend=backend)
    if not size:  # a storage that is too small is not seen by torch either, where it is only read
        with pytest.raises(TypeError, match=rf"grads\[0\]: {words}"):
            opt.step([gone])
    own, w.data, w.grad = w.data, gone, torch.ones(1000)
    with pytest.raises(TypeError, match=rf"params\[0\]: {words}"):
        opt.step()
    w.data = own
    opt.step()
    assert (w == 0.0).all()


@needs_torch
@by_backend
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: setattr(m, "data", torch.zeros(1000)), "one in other memory"),
        (lambda m: setattr(m, "data", m.data[:10]), "a resized one"),
        (lambda m: setattr(m, "data", m.data.double()), "one of torch.float64"),
    ],
    ids=["rebound", "resized", "retyped"],
)
def test_a_torch_state_is_looked_at_in_each_step(backend: str, change: Any, words: str) -> None:
    p, m, g = arrays(0, 1000)[0], torch.zeros(1000), arrays(1, 1000)[0]
    opt = fu.Momentum([p], lr=0.1, state=[[m]], backend=backend)
    opt.step([g])
    change(m)
    before = p.copy()
    with pytest.raises(ValueError, match=rf"\[momentum\] state\['v'\]\[0\]: expected .*, received {words}"):
        opt.step([g])
    assert_same_bits(p, before, "after the error")


@needs_torch
@by_backend
def test_elements_that_count_negated_are_refused_wherever_they_come(backend: str) -> None:
    """The imaginary part of a conjugate is the memory of the other one times −1."""
    z = torch.complex(torch.ones(1), torch.ones(1))
    plain, negated = z.imag, z.conj().imag
    w = torch.nn.Parameter(torch.ones(1))
    words = r"cannot share the memory of .* negative bit set.*resolve_neg"
    with pytest.raises(TypeError, match=words):
        fu.SGD([negated], backend=backend)
    opt = fu.SGD([w], lr=1.0, backend=backend)
    w.grad = plain
    opt.step()
    w.grad = negated
    for call in (opt.step, lambda: opt.step([negated])):
        with pytest.raises(TypeError, match=rf"grads\[0\]: {words}"):
            call()
    assert w.item() == 0.0
    m = z.imag
    opt = fu.Momentum([w], lr=1.0, state=[[m]], backend=backend)
    w.grad = torch.ones(1)
    opt.step()
    m.data = negated
    with pytest.raises(ValueError, match=r"state\['v'\]\[0\]: .* one whose elements lie elsewhere"):
        opt.step()
    w.data = plain
    opt = fu.SGD([w], lr=1.0, backend=backend)
    w.data = negated
    with pytest.raises(TypeError, match=rf"params\[0\]: {words}"):
        opt.step()


# -- autograd is told -------------------------------------------------------------------------------------------------


def versions(*tensors: Any) -> list[int]:
    return [t._version for t in tensors]


def stepped(opt: Any, p: Any) -> None:
    p.grad = torch.ones_like(p)
    opt.step()


def averaged(opt: Any, p: Any) -> None:
    with opt.ema_weights():
        pass


WRITES: dict[str, tuple[Callable[[Any, Any], None], int]] = {  # how often it writes the parameter
    "step": (stepped, 1),
    "ema_weights": (averaged, 2),
    "load_state_dict": (lambda opt, p: opt.load_state_dict(opt.state_dict()), 1),
}


@needs_torch
@by_backend
@pytest.mark.parametrize("write", WRITES)
def test_a_graph_that_saved_a_parameter_is_not_run_after_it_was_written(backend: str, write: str) -> None:
    w, x = parameter([2.0]), torch.ones(1, requires_grad=True)
    opt = fu.SGD([w], lr=1.0, ema_decay=0.9, backend=backend)
    act, times = WRITES[write]
    y = w * x
    before = w._version
    act(opt, w)
    assert w._version >= before + times
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@needs_torch
@by_backend
def test_zeroed_gradients_and_given_states_are_told_of_too(backend: str) -> None:
    p, g, m = parameter(np.ones(3)), torch.ones(3), torch.zeros(3)
    opt = fu.Momentum([p], lr=0.1, state=[[m]], zero_grads=True, backend=backend)
    opt.accumulate([g])
    assert versions(p, g, m) == [0, 1, 0]
    opt.step()
    assert versions(p, g, m) == [1, 1, 1]
    g.fill_(1.0)
    opt.step([g])
    assert versions(p, g, m) == [2, 3, 2]
    assert g.tolist() == [0.0] * 3


@needs_torch
@by_backend
def test_what_writes_nothing_tells_nothing(backend: str) -> None:
    p = parameter(np.ones(3))
    opt = fu.SGD([p], lr=0.1, nonfinite="skip", backend=backend)
    p.grad = torch.full((3,), torch.inf)
    assert opt.step().skipped
    with pytest.raises(TypeError, match="float32"):
        opt.step([torch.ones(3, dtype=torch.float64)])
    opt.state_dict()
    assert p._version == 0


@needs_torch
@by_backend
def test_gradients_that_a_skipped_step_zeroes_are_told_of(backend: str) -> None:
    p, g = parameter(np.ones(3)), torch.full((3,), torch.inf)
    opt = fu.SGD([p], lr=0.1, nonfinite="skip", zero_grads=True, backend=backend)
    assert opt.step([g]).skipped
    assert (versions(p, g), g.tolist()) == ([0, 1], [0.0] * 3)


@needs_torch
def test_a_torch_that_takes_one_tensor_at_a_time_is_told_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def increment_version(tensor: Any) -> None:
        if not isinstance(tensor, torch.Tensor):
            raise TypeError("increment_version(): argument 'tensor' must be Tensor, not tuple")
        told.append(tensor)

    monkeypatch.setattr(torch.autograd.graph, "increment_version", increment_version)
    monkeypatch.setattr(choose._load(choose.default_name()), "reads", lambda tensor: False)  # as with that torch
    params = [parameter(np.ones(3)) for _ in range(2)]
    for p in params:
        p.grad = torch.ones(3)
    fu.SGD(params, lr=0.1).step()
    assert [t is p for t, p in zip(told, params, strict=True)] == [True, True]


@needs_torch
def test_functional_calls_tell_autograd() -> None:
    p, g, v = torch.ones(3), torch.ones(3), torch.zeros(3)
    functional.momentum(p, g, v, step=1, lr=0.1)
    assert versions(p, g, v) == [1, 0, 1]
