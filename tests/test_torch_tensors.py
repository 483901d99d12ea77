"""torch's tensors, read natively by torch's own C functions or, where those are missing, through NumPy."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import assert_same_bits, by_case, random_arrays
from peers import Module, peer

import fastupdate as fu
from fastupdate import functional
from fastupdate.arrays import accept
from fastupdate.engines import choose
from fastupdate.engines.threads import set_num_threads

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(choose.native_problem() is not None, reason="there is no native module"),
]
torch: Any = Module("torch")
SHAPES = [(5,), (3, 4), (), (0, 7), (2, 3, 4, 5), (1,), (1030,)]


@pytest.fixture(params=["read", "through numpy"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways; the second as with a torch before 2.10."""
    way: str = request.param
    if way == "read":
        skip_without_reader()
    else:
        monkeypatch.setattr(choose._load("native"), "reads", lambda tensor: False)
    return way


def skip_without_reader() -> None:
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        pytest.skip("this torch has no C functions for its tensors")


@pytest.fixture
def no_closer_look(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, whatever is not accepted at a glance fails."""

    def refuse(x: Any, place: Any) -> Any:
        raise AssertionError(f"{place} was looked at closely")

    return lambda: monkeypatch.setattr(accept, "as_array", refuse)


def tensors(seed: int, shapes: list[tuple[int, ...]] = SHAPES, dtype: Any = np.float32) -> list[Any]:
    sizes = [int(np.prod(shape)) for shape in shapes]
    arrays = random_arrays(seed, sizes, dtype, spread=1.0)
    return [torch.from_numpy(a.reshape(s).copy()) for a, s in zip(arrays, shapes, strict=True)]


def parameters(seed: int, *args: Any) -> list[Any]:
    return [torch.nn.Parameter(t) for t in tensors(seed, *args)]


def arrays_of(parts: list[Any]) -> list[np.ndarray]:
    return [p.detach().numpy() for p in parts]


def hand_over(params: list[Any], grads: list[Any]) -> None:
    for p, g in zip(params, grads, strict=True):
        p.grad = g


# -- the same bits as NumPy arrays ------------------------------------------------------------------------------------


@by_case
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("feed", ["own", "list", "bound"])
def test_tensors_are_updated_as_arrays_are(case: Any, dtype: Any, feed: str, reader: str) -> None:
    params = parameters(1, SHAPES, dtype)
    arrays = [a.copy() for a in arrays_of(params)]
    ours, theirs = case.make(params), case.make(arrays)
    bound = tensors(9, SHAPES, dtype)
    if feed == "bound":
        ours.bind(bound)
    for step in range(4):
        grads = tensors(2 + step, SHAPES, dtype)
        theirs.step([g.numpy().copy() for g in grads])
        if feed == "own":
            hand_over(params, grads)
            ours.step()
        elif feed == "list":
            ours.step(grads)
        else:
            for target, g in zip(bound, grads, strict=True):
                target.copy_(g)
            ours.step()
    assert_same_bits(arrays_of(params), arrays, "parameters")
    for name, states in theirs.state.items():
        assert_same_bits(list(ours.state[name]), list(states), name)


OPTIONS: dict[str, dict[str, Any]] = {
    "clip_norm": {"clip_norm": 0.5},
    "zero_grads": {"zero_grads": True},
    "averages": {"ema_decay": 0.9, "lookahead": (2, 0.5), "shadow": "bfloat16"},
    "skip": {"nonfinite": "skip"},
    "monitor": {"monitor": True, "clip_value": 0.3},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_work_on_tensors_as_on_arrays(option: str, reader: str) -> None:
    params = parameters(1)
    arrays = [a.copy() for a in arrays_of(params)]
    ours, theirs = (fu.AdamW(p, lr=0.1, **OPTIONS[option]) for p in (params, arrays))
    for step in range(3):
        grads = tensors(2 + step)
        copies = [g.numpy().copy() for g in grads]
        hand_over(params, grads)
        reports = ours.step(), theirs.step(copies)
        assert repr(reports[0]) == repr(reports[1])
        assert_same_bits(arrays_of(grads), copies, "gradients")
    assert_same_bits(arrays_of(params), arrays, "parameters")


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    "every other": lambda t: torch.stack([t, t], dim=-1).reshape(*t.shape[:-1], -1)[..., ::2],
    "as it is": lambda t: t,
}


@pytest.mark.parametrize("p_layout", LAYOUTS)
@pytest.mark.parametrize("g_layout", LAYOUTS)
def test_tensors_in_any_layout(p_layout: str, g_layout: str, reader: str) -> None:
    shape = [(4, 3, 5, 6)]
    p = torch.nn.Parameter(LAYOUTS[p_layout](tensors(0, shape)[0]))
    array = p.detach().numpy().copy(order="C")
    ours, theirs = fu.Adam([p], lr=0.1), fu.Adam([array], lr=0.1)
    for step in range(3):
        g = tensors(1 + step, shape)[0]
        p.grad = LAYOUTS[g_layout](g)
        ours.step()
        theirs.step([g.numpy()])
    assert_same_bits(p.detach().numpy().copy(order="C"), array, "parameter")


# -- at a glance ------------------------------------------------------------------------------------------------------


def test_tensors_need_no_closer_look(no_closer_look: Callable[[], None]) -> None:
    skip_without_reader()
    params, given = parameters(1), tensors(5, [(4,)])
    arrays = [a.copy() for a in arrays_of(params)]
    opt, bound, mixed = fu.AdamW(params, lr=0.1), fu.SGD(parameters(3), lr=0.1), fu.SGD(arrays, lr=0.1)
    stated = fu.Momentum(given, lr=0.1, state=[tensors(6, [(4,)])])
    bound.bind(tensors(4))
    clipped = fu.SGD(params, lr=0.1, clip_norm=1.0)
    functional.sgd(*tensors(1, [(3,)] * 2), step=1, lr=0.1)
    hand_over(params, tensors(2))
    no_closer_look()
    for _ in range(3):
        opt.step()
        hand_over(params, tensors(2))
        opt.step(tensors(3))
        bound.step()
        mixed.step(tensors(2))
        stated.step(tensors(7, [(4,)]))
        clipped.step()


def test_many_tensors_are_read_in_one_thread_that_holds_the_gil(no_closer_look: Callable[[], None]) -> None:
    skip_without_reader()
    count = 5000
    set_num_threads(3)
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(count)]
    opt = fu.SGD(params, lr=1.0)
    hand_over(params, [torch.full((3,), float(k)) for k in range(count)])
    no_closer_look()
    opt.step()
    assert [p[0].item() for p in params] == [1.0 - k for k in range(count)]


def test_tensors_among_many_arrays(reader: str) -> None:
    count = 5000
    set_num_threads(3)
    params = [np.ones(3, np.float32) for _ in range(count)]
    opt = fu.SGD(params, lr=1.0)
    grads: list[Any] = [np.full(3, k, np.float32) for k in range(count)]
    for k in (1, 2500, 4999):
        grads[k] = torch.from_numpy(grads[k])
    for _ in range(2):
        opt.step(grads)
    assert [p[0] for p in params] == [1.0 - 2 * k for k in range(count)]


# -- functional calls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [lambda a: a[0], list, tuple], ids=["tensor", "list", "tuple"])
def test_functional_calls_on_tensors(shown: Callable[[Any], Any], reader: str) -> None:
    shapes = [(64,), (2, 3), ()]
    rows = [tensors(seed, shapes) for seed in range(4)]
    rows[3] = [t.abs() for t in rows[3]]
    arrays = [[t.numpy().copy() for t in row] for row in rows]
    report = functional.adam(*(shown(row) for row in rows), step=3, lr=0.1)
    expected = functional.adam(*(shown(row) for row in arrays), step=3, lr=0.1)
    assert repr(report) == repr(expected)
    for k, row in enumerate(rows):
        assert_same_bits([t.numpy() for t in row], arrays[k], f"row {k}")
    written = [t._version for k in (0, 2, 3) for t in list(rows[k])[: 1 if shown(rows[k]) is rows[k][0] else None]]
    assert set(written) == {1}
    assert {t._version for t in rows[1]} == {0}


# -- what is not read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feed", ["own", "list"])
def test_a_subclass_of_parameter_is_updated(feed: str, reader: str) -> None:
    kind = type("Scaled", (torch.nn.Parameter,), {"__module__": "users_model"})
    p = kind(torch.ones(3))
    opt = fu.SGD([p], lr=1.0, zero_grads=True)
    for k in range(3):
        p.grad = torch.full((3,), 2.0**k)
        opt.step(None if feed == "own" else [p.grad])
        assert p.grad.tolist() == [0.0] * 3
    assert (p.tolist(), p._version) == ([-6.0] * 3, 3)


def fake() -> Any:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        return torch.zeros(3)


UNREADABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "None": (lambda: None, "expected an array"),
    "meta": (lambda: torch.empty(3, device="meta"), "meta"),
    "sparse": (lambda: torch.ones(3, 1).to_sparse_csr(), "Sparse"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "QInt8"),
    "mkldnn": (lambda: torch.ones(3, 3).to_mkldnn(), "Mkldnn"),
    "negated": (lambda: torch.complex(torch.ones(3), torch.ones(3)).conj().imag, "negative bit"),
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), "complex64"),
    "conjugate": (lambda: torch.ones(3, dtype=torch.complex64).conj(), "conjugate bit"),
    "float8": (lambda: torch.ones(3).to(torch.float8_e4m3fn), "Float8"),
    "integers": (lambda: torch.ones(3, dtype=torch.int64), "float32"),
    "fake": (fake, "FakeTensor"),
    "functional": (lambda: torch._to_functional_tensor(torch.ones(3)), "memory of Tensor"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(1)]), "memory of Tensor"),
    "another shape": (lambda: torch.ones(4), "shape"),
    "another dtype": (lambda: torch.ones(3, dtype=torch.float64), "float32"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", UNREADABLE)
def test_tensors_without_plain_memory_are_refused_by_name(kind: str, reader: str) -> None:
    make, words = UNREADABLE[kind]
    p = torch.nn.Parameter(torch.ones(3))
    opt = fu.SGD([p], lr=1.0)
    with pytest.raises((TypeError, ValueError), match=rf"^\[sgd\] grads\[0\]: .*{words}"):
        opt.step([make()])
    v = torch.zeros(3)
    if kind not in ("None", "another shape", "another dtype", "nested"):
        with pytest.raises((TypeError, ValueError), match=rf"^\[momentum\] params: .*{words}"):
            functional.momentum(make(), torch.ones(3), v, step=1, lr=1.0)
    with pytest.raises((TypeError, ValueError), match=r"^\[momentum\] grads: "):
        functional.momentum(p, make(), v, step=1, lr=1.0)
    assert (p.tolist(), v.tolist(), p._version) == ([1.0] * 3, [0.0] * 3, 0)


def test_a_gradient_that_is_missing_is_named_with_the_remedy(reader: str) -> None:
    params = {"w": torch.nn.Parameter(torch.ones(3)), "b": torch.nn.Parameter(torch.ones(2))}
    opt = fu.SGD(params, lr=1.0)
    params["w"].grad = torch.ones(3)
    for _ in range(2):
        with pytest.raises(
            TypeError, match=r"\[sgd\] grads\['b'\]: expected an array \(or missing='skip', or opt\.freeze\('b'\)"
        ):
            opt.step()
    assert params["w"].tolist() == [1.0] * 3
    opt.freeze("b")
    opt.step()
    assert (params["w"].tolist(), params["b"].tolist()) == ([0.0] * 3, [1.0] * 2)


def test_a_model_is_not_a_list_of_parameters() -> None:
    with pytest.raises(TypeError, match=r"\[sgd\] params: expected model\.parameters\(\) .*, received Linear"):
        fu.SGD(torch.nn.Linear(2, 2))


# -- lifetimes, modes -------------------------------------------------------------------------------------------------


def test_gradients_are_not_kept(reader: str) -> None:
    params = parameters(1, [(300,)] * 3)
    opt = fu.SGD(params, lr=0.1)
    hand_over(params, tensors(2, [(300,)] * 3))
    kept = [weakref.ref(p.grad) for p in params]
    opt.step()
    hand_over(params, [None] * 3)
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3


def test_tensors_of_inference_mode_have_no_versions(reader: str) -> None:
    with torch.inference_mode():
        p, g = torch.ones(3), torch.ones(3)
        fu.SGD([p], lr=1.0).step([g])
        functional.sgd(p, g, step=1, lr=1.0)
    assert p.tolist() == [-1.0] * 3


def test_a_real_backward_and_a_peer_agree(reader: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.Tanh(), torch.nn.Linear(9, 1))
    other = torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.Tanh(), torch.nn.Linear(9, 1))
    other.load_state_dict(model.state_dict())
    ours = fu.AdamW(list(model.parameters()), lr=0.01)
    theirs = torch.optim.AdamW(other.parameters(), lr=0.01)
    x = torch.randn(16, 7)
    for _ in range(10):
        for net, opt in ((model, ours), (other, theirs)):
            for p in net.parameters():
                p.grad = None
            net(x).square().mean().backward()
            opt.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


# -- arrays of other libraries ----------------------------------------------------------------------------------------


def test_arrays_of_jax_are_read_as_gradients() -> None:
    jax = peer("jax")
    values = random_arrays(0, [12], np.float32)[0].reshape(3, 4)
    g = jax.device_put(values, jax.devices("cpu")[0])
    runs = []
    for grad in (g, values):
        p = np.ones((3, 4), np.float32)
        opt = fu.Adam([p], lr=0.1)
        for _ in range(2):
            opt.step([grad])
        functional.sgd(p, grad, step=1, lr=0.1)
        runs.append(p)
    assert_same_bits(runs[0], runs[1], "JAX and NumPy")
    with pytest.raises(ValueError, match=r"grads\[0\]: expected a writable array, to be zeroed, received a read-only"):
        fu.SGD([np.ones((3, 4), np.float32)], lr=0.1, zero_grads=True).step([g])
    with pytest.raises(ValueError, match=r"params\[0\]: expected a writable array, received a read-only one"):
        fu.SGD([g], lr=0.1)


def plain(x: Any) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else x.numpy()


@pytest.mark.parametrize("backend", ["native", "numba"])
@pytest.mark.parametrize(
    "broadcast",
    [
        lambda a: np.broadcast_to(a, (5, 4)),
        lambda a: np.broadcast_to(a[:, None], (4, 5)).T,
        lambda a: torch.from_numpy(a).expand(5, 4),
        lambda a: np.broadcast_to(a[0], (5, 4)),
    ],
    ids=["rows", "columns", "expand", "one number"],
)
def test_gradients_may_be_broadcast_for_they_are_only_read(backend: str, broadcast: Any) -> None:
    if choose.PROBLEMS[backend]():
        pytest.skip(str(choose.PROBLEMS[backend]()))
    a = random_arrays(0, [4], np.float32)[0]
    runs = []
    for make in (broadcast, lambda a: plain(broadcast(a)).copy()):
        p = np.ones((5, 4), np.float32)
        opt = fu.Adam([p], lr=0.1, clip_norm=1.0, backend=backend)
        for _ in range(2):
            opt.step([make(a)])
        opt.step([np.broadcast_to(plain(make(a)), (3, 5, 4))], reduce="mean")
        opt.accumulate([make(a)])
        opt.step()
        runs.append(p)
    assert_same_bits(runs[0], runs[1], "broadcast and copied")
    with pytest.raises(ValueError, match=r"grads\[0\]: expected elements at addresses of their own"):
        fu.SGD([np.ones((5, 4), np.float32)], lr=0.1, zero_grads=True, backend=backend).step([broadcast(a)])
