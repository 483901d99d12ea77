"""Tensors without a gradient: left alone in that step, as torch leaves them, or an error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from cases import Case, arrays_of, assert_same_bits, by_backend, by_rule, exactly, random_arrays
from device_arrays import FakeArray
from peers import peer
from reference import Reference, fold, sum_of_squares

import fastupdate as fu
from fastupdate.arrays import device

NAMES = ["a", "b", "c", "d"]
SIZES = dict(zip(NAMES, [5, 1500, 64, 33], strict=True))
PRESENT = ["abcd", "abcd", "ab", "ab", "acd", "", "bcd", "abcd", "d", "abcd"]  # tensors with a gradient, step by step


def params() -> dict[str, np.ndarray]:
    return dict(zip(NAMES, random_arrays(1, list(SIZES.values()), np.float32), strict=True))


def grads(k: int, present: str = "abcd") -> dict[str, np.ndarray]:
    every = zip(NAMES, random_arrays(2 + k, list(SIZES.values()), np.float32), strict=True)
    return {name: g for name, g in every if name in present}


def as_list(found: dict[str, Any]) -> Any:
    return [found.get(name) for name in NAMES]


def as_nesting(found: dict[str, Any]) -> Any:
    """A branch may be missing as a whole."""
    branch = {name: found.get(name) for name in "ab"}
    return {"left": branch if any(g is not None for g in branch.values()) else None, "right": as_list(found)[2:]}


SHAPES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "dict, absent": dict,
    "dict, None": lambda found: {name: found.get(name) for name in NAMES},
    "list": as_list,
    "tuple": lambda found: tuple(as_list(found)),
    "nesting": as_nesting,
}
by_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
OPTIONS = {"lr": 1e-3, "ema_decay": 0.9, "shadow": "bfloat16"}


def alone(case: Case, name: str) -> Reference:
    return Reference(case, [params()[name]], **OPTIONS)


@by_shape
@by_backend
@by_rule
def test_each_tensor_takes_the_steps_that_have_its_gradient(case: Case, backend: str, shape: Any) -> None:
    """As if it were alone."""
    p = params()
    opt = case.make(shape(p), missing="skip", backend=backend, **OPTIONS)
    references = {name: alone(case, name) for name in NAMES}
    for k, present in enumerate(PRESENT):
        assert opt.step(shape(grads(k, present))).step == k + 1
        for name in present:
            references[name].step([grads(k)[name]])
    for name, item in zip(NAMES, opt.stepper.items, strict=True):
        expected = references[name].arrays()
        assert_same_bits([item.array], expected["params"], name)
        for kind, arrays in expected.items():
            if kind != "params":
                here = item.states[kind.split()[1]] if kind.startswith("state") else item.slots[kind]
                assert_same_bits([here], arrays, f"{kind} of {name}")
    steps = {name: entry["step"] for name, entry in opt.state_dict()["tensors"].items()}
    assert list(steps.values()) == [sum(name in present for present in PRESENT) for name in NAMES]


@by_backend
def test_norms_are_of_the_gradients_that_there_are(backend: str) -> None:
    p = params()
    opt = fu.Adam(p, missing="skip", clip_norm=1.0, monitor=True, backend=backend)
    for k, present in enumerate(PRESENT):
        report = opt.step(grads(k, present))
        squares = [sum_of_squares(g) for g in grads(k, present).values()]
        assert report.grad_norm == np.sqrt(fold(squares))
        assert list(report.tensors["name"]) == list(present)


@by_backend
def test_none_left_is_a_step_of_none(backend: str) -> None:
    p = params()
    opt = fu.Adam(p, missing="skip", backend=backend)
    before = exactly(opt.state_dict()["arrays"])
    assert opt.step({}).step == 1
    assert opt.step(dict.fromkeys(NAMES)).step == 2
    assert exactly(opt.state_dict()["arrays"]) == before
    with pytest.raises(TypeError, match="grads: expected gradients, or bound ones"):
        opt.step()
    assert opt.step(grads(0)).step == 3


@by_backend
def test_frozen_ones_are_frozen_whether_they_are_missing_or_not(backend: str) -> None:
    p = params()
    opt = fu.Adam(p, missing="skip", backend=backend, groups=[{"params": "d", "frozen_until": 4}])
    reference = {name: Reference(Case("adam", "plain", {}), [value.copy()]) for name, value in p.items()}
    for k, present in enumerate(PRESENT):
        if k == 1:
            opt.freeze("a")
        if k == 6:
            opt.unfreeze("a")
        opt.step(grads(k, present))
        for name in present:
            if not (name == "a" and 1 <= k < 6) and not (name == "d" and k < 4):
                reference[name].step([grads(k)[name]])
    for name, array in p.items():
        assert_same_bits(array, reference[name].params[0], name)


@pytest.mark.parametrize("reduce", [None, "mean", "sum"])
@by_backend
def test_between_micro_batches_what_is_missing_counts_as_zero(backend: str, reduce: Any) -> None:
    """As p.grad of torch adds up; a tensor that is missing in all of them rests."""
    p, q = params(), params()
    opt = fu.Adam(p, missing="skip", backend=backend)
    plain = fu.Adam(q, missing="skip", backend=backend)
    for round_ in (["ab", "bc", "b"], ["d"], ["", "abcd"], ["cd", "c"], ["", ""]):
        total = {name: np.zeros(SIZES[name], np.float32) for name in NAMES if any(name in batch for batch in round_)}
        for k, batch in enumerate(round_):
            given = grads(k, batch)
            opt.accumulate({n: np.stack([g, g]) for n, g in given.items()} if reduce else given, reduce=reduce)
            for name, g in given.items():
                total[name] += g + g if reduce == "sum" else g
        opt.step()
        plain.step({name: g / np.float32(len(round_)) for name, g in total.items()})
        assert opt.step_count == plain.step_count
    for name in NAMES:
        np.testing.assert_allclose(p[name], q[name], rtol=1e-5)
    assert [entry["step"] for entry in opt.state_dict()["tensors"].values()] == [
        entry["step"] for entry in plain.state_dict()["tensors"].values()
    ]


@by_backend
def test_a_failed_call_between_micro_batches_lets_nobody_join(backend: str) -> None:
    both = [fu.Adam(params(), missing="skip", backend=backend) for _ in range(2)]
    for opt in both:
        opt.accumulate(grads(0, "ab"))
    with pytest.raises(TypeError, match=r"grads\['d'\]: expected float32, received float64"):
        both[0].accumulate({**grads(1, "c"), "d": np.ones(SIZES["d"])})
    for opt in both:
        opt.accumulate(grads(1, "b"))
        opt.step()
    assert exactly(both[0].state_dict()) == exactly(both[1].state_dict())
    with pytest.raises(ValueError, match=r"grads\['x'\]: expected nothing \(no such parameter\)"):
        both[0].step({"x": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=r"grads\['x'\]: expected nothing \(no such parameter\)"):
        both[0].step({"x": None})


REFUSED: dict[str, tuple[Any, dict[str, Any], Any, type[Exception]]] = {
    "rows of a lazy step": (fu.Adam, {"rows": "lazy"}, (np.array([0]), np.ones(1, np.float32)), ValueError),
    "another part's gradient": (
        partial(fu.Partition, rules=[("[ab]", fu.Adam), ("*", fu.SGD)]), {}, np.ones(SIZES["d"]), TypeError,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "options", "wrong", "error"), REFUSED.values(), ids=REFUSED)
def test_whatever_refuses_a_micro_batch(make: Any, options: dict[str, Any], wrong: Any, error: type[Exception]) -> None:
    both = [make(params(), missing="skip", **options) for _ in range(2)]
    for opt in both:
        opt.accumulate(grads(0, "ac"))
    with pytest.raises(error, match="grads"):
        both[0].accumulate({**grads(1, "ab"), "d": wrong})
    assert [opt.step().step for opt in both] == [1, 1]
    assert exactly(both[0].state_dict()) == exactly(both[1].state_dict())


@pytest.mark.parametrize("when", ["between steps", "between micro-batches"])
@pytest.mark.parametrize("copied", [False, True], ids=["state", "copy"])
def test_a_resumed_run_goes_on_alike(when: str, copied: bool) -> None:
    first = fu.Adam(params(), missing="skip")
    for k, present in enumerate(PRESENT[:5]):
        first.step(grads(k, present))
    if when == "between micro-batches":
        first.accumulate(grads(7, "ac"))
    second = copy.deepcopy(first) if copied else fu.Adam(copy.deepcopy(first.params), missing="skip")
    if not copied:
        second.load_state_dict(first.state_dict())
    for opt in (first, second):
        if when == "between micro-batches":
            opt.accumulate(grads(8, "cd"))
            opt.step()
        for k, present in enumerate(PRESENT):
            opt.step(grads(k, present))
    assert exactly(first.state_dict()) == exactly(second.state_dict())
    assert exactly(first.params) == exactly(second.params)


CALLS: dict[str, Callable[[Any], Any]] = {
    "bind": lambda opt: (opt.bind(grads(7)), opt.step()),
    "bind some": lambda opt: (opt.bind(grads(7, "acd")), opt.step()),
    "start_at": lambda opt: opt.start_at(20),
    "start_at before the date": lambda opt: opt.start_at(1),
    "unfreeze": lambda opt: opt.unfreeze(["b", "d"], state="reset"),
    "thaw half": lambda opt: opt.unfreeze("*", state=0.5),
    "freeze": lambda opt: opt.freeze(["a", "d"]),
    "accumulate": lambda opt: (opt.accumulate(grads(7, "abc")), opt.accumulate(grads(8, "d")), opt.step()),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("parts", [False, True], ids=["one rule", "partition"])
def test_whom_the_next_step_moves_is_known_before_it(call: Callable[[Any], Any], parts: bool) -> None:
    """One tensor rested in the step before, and the date of another has come: as for an optimizer that is resumed."""
    dates = [{"params": ["d"], "frozen_until": 2}]
    make: Any = partial(fu.Partition, rules=[("[ad]", fu.Adam), ("*", fu.Adam)]) if parts else fu.Adam
    ran = make(params(), missing="skip", groups=dates)
    for k in range(2):
        ran.step(grads(k, "ac"))
    resumed = copy.deepcopy(ran)
    for opt in (ran, resumed):
        call(opt)
        opt.step(grads(3))
    assert exactly(ran.state_dict()) == exactly(resumed.state_dict())
    assert_same_bits([*ran.params.values()], [*resumed.params.values()], "parameters")


def test_bound_gradients_may_lack_some() -> None:
    opt, plain = (fu.Adam(params(), missing="skip") for _ in range(2))
    opt.bind(grads(0, "bd"))
    for _ in range(2):
        opt.step()
        plain.step(grads(0, "bd"))
    for each in (opt, plain):
        each.step(grads(1))
    opt.step()  # what is bound is what it was
    plain.step(grads(0, "bd"))
    opt.bind(grads(2))
    opt.step()
    plain.step(grads(2))
    assert exactly(opt.state_dict()) == exactly(plain.state_dict())
    opt.accumulate(grads(3, "a"))
    with pytest.raises(ValueError, match=r"grads: expected no accumulated micro-batches"):
        opt.bind(grads(0, "bd"))


def test_zeroing_reaches_no_tensor_that_rests() -> None:
    p = params()
    opt = fu.Adam(p, missing="skip", zero_grads=True)
    with pytest.raises(ValueError, match="expected memory apart from"):
        opt.step({"a": p["d"][:5], "b": grads(0)["b"]})
    opt.step(grads(0))


@pytest.mark.peer
@pytest.mark.parametrize("case", ["sgd", "adamw"])
def test_torch_leaves_the_same_tensors_alone(case: str) -> None:
    torch = peer("torch")
    theirs = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in params().values()]
    ours = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in params().values()]
    make, options = {
        "sgd": ((torch.optim.SGD, fu.SGD), {"lr": 0.01, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
        "adamw": ((torch.optim.AdamW, fu.AdamW), {"lr": 0.01, "weight_decay": 0.1}),
    }[case]
    peers_, opt = make[0](theirs, **options), make[1](ours, missing="skip", **options)
    for k, present in enumerate(PRESENT):
        for tensors in (theirs, ours):
            for name, p in zip(NAMES, tensors, strict=True):
                p.grad = torch.from_numpy(grads(k)[name]) if name in present else None
        peers_.step()
        opt.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("shim")
@pytest.mark.parametrize(
    "options", [{}, {"clip_norm": 1.0, "nonfinite": "skip", "max_skips": 3}], ids=["plain", "judged"]
)
def test_a_device_does_the_same(options: dict[str, Any]) -> None:
    p = params()
    host = fu.AdamW(p, missing="skip", **options)
    there = fu.AdamW({name: FakeArray(value.copy()) for name, value in params().items()}, missing="skip", **options)
    for k, present in enumerate(PRESENT):
        bad = {name: g * np.float32(np.nan if options and k in (3, 4) else 1) for name, g in grads(k, present).items()}
        host.step(bad)
        there.step({name: FakeArray(g) for name, g in bad.items()})
        for each, wrap in ((host, lambda g: g), (there, FakeArray)):
            if k == 6:
                each.accumulate({name: wrap(g) for name, g in grads(k, "ab").items()})
                each.accumulate({name: wrap(g) for name, g in grads(k, "bc").items()})
                each.step()
    assert there.step_count == host.step_count
    for kind, arrays in arrays_of(host).items():
        assert_same_bits([device.on_host(a) for a in arrays_of(there)[kind]], arrays, kind)


def test_by_default_a_missing_gradient_is_an_error_that_says_what_to_do() -> None:
    opt = fu.Adam(params())
    words = r"\[adam\] grads\['c'\]: expected an array \(or missing='skip', or opt.freeze\('c'\), to leave it alone\)"
    with pytest.raises(ValueError, match=words):
        opt.step(grads(0, "abd"))
    with pytest.raises(TypeError, match=words):
        opt.step({**grads(0), "c": None})
    with pytest.raises(ValueError, match=r"\[adam\] missing: expected one of 'raise', 'skip', received 'ignore'"):
        fu.Adam(params(), missing="ignore")


def test_functional_calls_leave_missing_ones_alone_too() -> None:
    p, m, v = params(), params(), params()
    before = exactly(p["b"])
    fu.functional.adam(p, grads(0, "acd"), m, {k: abs(x) for k, x in v.items()}, step=3, missing="skip")
    assert exactly(p["b"]) == before
    assert exactly(p["a"]) != exactly(params()["a"])
