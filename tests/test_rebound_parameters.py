"""Torch parameters and states that are rebound between steps: followed, or refused by name, in the next one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import assert_same_bits, by_backend, random_arrays
from peers import Module

import fastupdate as fu
from fastupdate.engines import choose

torch: Any = Module("torch")
needs_torch = pytest.mark.peer


def arrays(seed: int, *sizes: int) -> list[np.ndarray]:
    return random_arrays(seed, list(sizes), np.float32)


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


@needs_torch
@pytest.mark.parametrize("threads", [1, 2])
def test_one_that_counts_negated_is_refused_among_gradients_that_threads_share(threads: int) -> None:
    fu.set_num_threads(threads)
    params = [torch.nn.Parameter(torch.ones(n)) for n in (1 << 16, 1 << 16, 1)]
    opt = fu.SGD(params, lr=1.0)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    params[2].grad = torch.complex(torch.ones(1), torch.ones(1)).conj().imag
    with pytest.raises(TypeError, match=r"grads\[2\]: .* negative bit set"):
        opt.step()
    assert {p.sum().item() for p in params} == {0.0}
