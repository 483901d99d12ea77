"""Gradients of few rows: the steps of dense ones, and lazy steps, which move what is touched and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cases import (
    BEST,
    CASES,
    ENGINES,
    PARALLEL,
    Case,
    Engine,
    arrays_of,
    assert_same_bits,
    by_backend,
    by_dtype,
    fingerprint,
    in_sample,
)
from reference import Reference
from row_cases import COUNT, DRAWS, SOME, but_on_numba, by_mode, densified, pair, rows, steps, values

import fastupdate as fu
from fastupdate.engines import threads
from fastupdate.step import gradients

SAMPLE = [case for case in CASES if in_sample(case) and not fu.rules.get(case.rule).rule.phases]
ADAM = [case for case in SAMPLE if str(case) == "adam-plain"]
RUNS = [  # all of them on the best instruction set; Numba compiles each rule for seconds
    pytest.param(case, *engine.values, id=f"{case}-{engine.id}", marks=engine.marks)
    for engine in ENGINES
    for case in (SAMPLE if engine in BEST and engine.values[0].backend == "native" else ADAM)
]
WIDTHS = [1, 3, 7, 8, 15, 16, 17, 31, 32, 33, 64, 127, 128, 129, 1025]


def masked_step(reference: Reference, grads: list[np.ndarray], touched: list[list[int]]) -> None:
    """A step by dense gradients, of which the rows that are not touched are taken back."""
    before = copy.deepcopy([[tensor.p, *tensor.states] for tensor in reference.tensors])
    reference.step(grads)
    for tensor, old, moved in zip(reference.tensors, before, touched, strict=True):
        rest = np.setdiff1d(np.arange(COUNT), moved)
        for array, there in zip([tensor.p, *tensor.states], old, strict=True):
            array[rest] = there[rest]


@by_dtype
@pytest.mark.parametrize(("case", "engine"), RUNS)
@by_mode
def test_every_width(mode: str, case: Case, engine: Engine, dtype: Any) -> None:
    """Of every draw, each a tensor of one list."""
    pairs = [(width, draws) for width in WIDTHS for draws in DRAWS]
    starts = [values(1, COUNT, width, dtype) for width, _ in pairs]
    params = [start.copy() for start in starts]
    reference = Reference(case, starts)
    opt = case.make(params, rows=mode, backend=engine.select())
    given = [steps(draws, width, dtype, (np.int32, np.int64)[k % 2]) for k, (width, draws) in enumerate(pairs)]
    for k, now in enumerate(zip(*given, strict=True)):
        opt.step(list(now))
        touched = [DRAWS[draws][k] if mode == "lazy" else list(range(COUNT)) for _, draws in pairs]
        masked_step(reference, [densified(*pair) for pair in zip(now, starts, strict=True)], touched)
    assert_same_bits(params, reference.params, "params")
    for (width, draws), item, tensor in zip(pairs, opt.stepper.items, reference.tensors, strict=True):
        kept = [s for name, s in zip(opt.rule.states, tensor.states, strict=True) if name in reference.kept]
        assert_same_bits([*item.states.values()], kept, f"{draws}, width {width}")


OPTIONS: dict[str, dict[str, Any]] = {
    "clips": {"clip_norm": 0.7, "clip_value": 0.4, "shadow": "bfloat16"},
    "tensor": {"clip_tensor_norm": 0.7, "l1": 1e-2, "l1_mode": "proximal", "maximize": True},
    "numbers of rows": {"clip_norm": 0.7, "initial_accumulator_value": 0.1},
    "modifiers": {"cautious": True, "optimism": 0.3, "decay": "independent", "nonfinite": "skip"},
}


@pytest.mark.parametrize("width", [1, 33, 128, 1500])
@pytest.mark.parametrize(("name", "backend"), but_on_numba(OPTIONS, {"numbers of rows"}))
def test_a_lazy_step_is_one_of_the_touched_rows_alone(width: int, name: str, backend: str) -> None:
    """Norms are those of the summed rows; other tensors step as ever."""
    cls = fu.RowwiseAdagrad if name == "numbers of rows" else fu.Adam
    start, head = values(1, COUNT, width, np.float32), values(2, 3, 50, np.float32)
    kwargs = {"lr": 0.1, "weight_decay": 0.03, **OPTIONS[name]}
    params = {"rows": start.copy(), "head": head.copy()}
    opt = cls(params, rows="lazy", backend=backend, **kwargs)
    for k, drawn in enumerate([[7, 0, 7, 4], [4, 7, 0, 0]]):
        gradient, grad = (
            fu.Rows(np.array(drawn), values(20 + k, 4, width, np.float32)),
            values(30 + k, 3, 50, np.float32),
        )
        at = sorted(set(drawn))
        if k == 0:
            alone = {"rows": start[at].copy(), "head": head.copy()}
            beside = cls(alone, backend=backend, **kwargs)
        report = opt.step({"rows": gradient, "head": grad})
        assert repr(report) == repr(beside.step({"rows": densified(gradient, start)[at], "head": grad}))
    expected = start.copy()
    expected[at] = alone["rows"]
    assert_same_bits([*params.values()], [expected, alone["head"]], name)
    for kind, arrays in arrays_of(opt).items():
        if arrays and kind != "params":
            assert_same_bits([arrays[0][at], arrays[1]], arrays_of(beside)[kind], kind)


DENSE_OPTIONS: dict[str, Any] = {
    "clip_unit_norm": 0.1, "monitor": True, "ema_decay": 0.9, "lookahead": (2, 0.5), "centralize": True,
}  # fmt: skip


@pytest.mark.parametrize(("name", "backend"), but_on_numba(DENSE_OPTIONS, {"centralize"}))
def test_dense_rows_take_every_option(name: str, backend: str) -> None:
    start = values(1, COUNT, 200, np.float32)
    here, there = [start.copy()], [start.copy()]
    opt, beside = (
        fu.Adam(p, lr=0.1, weight_decay=0.03, backend=backend, **{name: DENSE_OPTIONS[name]}) for p in (here, there)
    )
    for gradient in steps("repeated", 200, np.float32):
        assert repr(opt.step([gradient])) == repr(beside.step([densified(gradient, start)]))
    assert_same_bits(here, there, name)


@by_backend
@by_mode
def test_any_number_of_threads(mode: str, backend: str) -> None:
    width = 70
    count = PARALLEL // width * 2
    rng = np.random.default_rng(0)
    drawn = np.minimum(rng.zipf(1.2, count) - 1, count - 1)
    found = []
    for n in (1, 2, 3):
        threads.set_num_threads(n)
        params = [values(1, count, width, np.float32)]
        opt = fu.Adam(params, lr=0.1, weight_decay=0.03, rows=mode, clip_norm=2.0, backend=backend)
        report = opt.step([fu.Rows(drawn, values(2, count, width, np.float32))])
        found.append((params[0].tobytes(), report.grad_norm))
    assert found[0] == found[1] == found[2]


@by_backend
@by_mode
def test_values_of_other_kinds(mode: str, backend: str) -> None:
    """Narrow types, other strides and other kinds of indices; and parameters of one and of three axes."""
    for shape in ((COUNT,), (COUNT, 3, 5)):
        for make in (
            lambda v: v.astype(ml_dtypes.bfloat16),
            lambda v: v.astype(np.float16),
            lambda v: np.repeat(v, 2, axis=0)[::2],
            lambda v: v[:, ...][::-1][::-1],
        ):
            given = make(values(5, 4, int(np.prod(shape[1:])), np.float32).reshape(4, *shape[1:]))
            found = []
            for indices in ([8, 1, 1, 0], np.array([8, 1, 1, 0], np.uint8)):
                for as_float in (False, True):
                    params = [values(1, COUNT, int(np.prod(shape[1:])), np.float32).reshape(shape)]
                    opt = fu.Adam(params, lr=0.1, weight_decay=0.03, rows=mode, backend=backend)
                    opt.step([fu.Rows(np.array(indices), given.astype(np.float32) if as_float else given)])
                    found.append(params[0].tobytes())
            assert len(set(found)) == 1


@by_backend
@by_mode
def test_dense_gradients_and_rows_take_turns(mode: str, backend: str) -> None:
    """Nothing of a step by rows is left for the next one; the step count goes on."""
    start = values(1, COUNT, 40, np.float32)
    params, grad = [start.copy()], values(3, COUNT, 40, np.float32)
    opt = fu.Adam(params, lr=0.1, weight_decay=0.03, rows=mode, backend=backend)
    [gradient, *_] = steps("repeated", 40, np.float32)
    reference = Reference(Case("adam", "plain", {"lr": 0.1, "weight_decay": 0.03}), [start.copy()])
    for k in range(4):
        if k % 2:
            opt.step([gradient])
            masked_step(reference, [densified(gradient, start)], [[0, 3, 8] if mode == "lazy" else list(range(COUNT))])
        else:
            opt.step([grad])
            reference.step([grad])
    assert_same_bits(params, reference.params, mode)
    assert opt.step_count == 4


@by_backend
def test_a_dense_gradient_that_begins_where_rows_began(backend: str) -> None:
    """It is looked at: it reaches further than they did, into the parameter."""
    memory = values(1, 2 + COUNT, 4, np.float32)
    opt = fu.Adam([memory[2:]], backend=backend)
    opt.step([rows(SOME, memory[:2])])
    before = memory.copy()
    with pytest.raises(ValueError, match=r"grads\[0\]: expected memory apart from params\[0\]"):
        opt.step([memory[:COUNT]])
    assert_same_bits([memory], [before], "memory")


AT_A_GLANCE: dict[str, dict[str, Any]] = {"nothing else": {}, "a norm": {"clip_norm": 0.7}}


@pytest.mark.parametrize("name", AT_A_GLANCE)
@by_mode
def test_rows_are_taken_in_by_the_engine(mode: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that it can read as they lie, in any place of a list, need no look of Python's."""
    monkeypatch.setattr(gradients, "_adopt_rows", lambda *_: pytest.fail("looked at closely"))
    params = [values(k, COUNT, 40, np.float32) for k in range(4)]
    opt = fu.Adam(params, lr=0.1, weight_decay=0.03, rows=mode, backend="native", **AT_A_GLANCE[name])
    dense = [values(9, COUNT, 40, np.float32) for _ in params]
    made = steps("repeated", 40, np.float32, np.int32)
    for k in range(3):
        short = fu.Rows(made[k].indices.astype(np.int64), made[k].values.astype(np.float16))
        assert opt.step([made[k], dense[1], dense[2], short]).step == 1 + k


@by_backend
def test_micro_batches_of_rows(backend: str) -> None:
    params, beside = ([values(1, COUNT, 40, np.float32)] for _ in range(2))
    opt, dense = (fu.Adam(p, lr=0.1, weight_decay=0.03, backend=backend) for p in (params, beside))
    for gradient in steps("repeated", 40, np.float32):
        opt.accumulate([gradient])
        dense.accumulate([densified(gradient, params[0])])
    opt.step()
    dense.step()
    assert_same_bits(params, beside, "micro-batches")


@by_backend
def test_rules_of_a_partition(backend: str) -> None:
    start = values(1, COUNT, 40, np.float32)
    params = {"rows": start.copy(), "head": start.copy()}
    opt = fu.Partition(params, [("rows", fu.Adam), ("head", fu.SGD)], rows="lazy", clip_norm=1.0, backend=backend)
    [gradient, *_] = steps("repeated", 40, np.float32)
    opt.step({"rows": gradient, "head": start})
    moved = (params["rows"] != start).all(axis=1)
    assert np.flatnonzero(moved).tolist() == [0, 3, 8]
    assert (params["head"] != start).all()


STRUCTURES: dict[str, Callable[..., Any]] = {
    "alone": lambda a, _: a,
    "list": lambda a, b: [a, b],
    "dict": lambda a, b: {"a": a, "b": b},
    "nested": lambda a, b: {"a": [{"a": a}, (b,)]},
}


@by_backend
@by_mode
@pytest.mark.parametrize("name", STRUCTURES)
def test_a_pair_of_indices_and_values_is_rows(name: str, mode: str, backend: str) -> None:
    """Step after step, in turns with the same as fu.Rows, and in a call without an object."""
    made, found = STRUCTURES[name], []
    given = steps("repeated", 40, np.float32)
    for form in (pair, lambda gradient: gradient):
        a, b = (values(k, COUNT, 40, np.float32) for k in (1, 2))
        states = [[np.zeros_like(a) for _ in "mv"] for _ in "ab"]
        opt = fu.Adam(made(a, b), lr=0.1, weight_decay=0.03, rows=mode, backend=backend)
        for k, gradient in enumerate(given):
            opt.step(made(form(gradient) if k != 1 else gradient, form(given[0])))
        fu.functional.adam(
            made(a, b), made(form(given[2]), form(given[1])), *(made(*s) for s in zip(*states, strict=True)),
            step=1, lr=0.1, rows=mode, backend=backend,
        )  # fmt: skip
        found.append([fingerprint(opt), *(x.tobytes() for x in (a, b, *states[0], *states[1]))])
    assert found[0] == found[1]


@by_backend
def test_pairs_to_the_rules_of_a_partition(backend: str) -> None:
    found = []
    for form in (pair, lambda gradient: gradient):
        params = [{"rows": values(1, COUNT, 40, np.float32)}, values(2, COUNT, 40, np.float32)]
        opt = fu.Partition(params, [("*rows", fu.Adam), ("1", fu.SGD)], rows="lazy", backend=backend)
        [first, second, _] = map(form, steps("repeated", 40, np.float32))
        opt.step([{"rows": first}, second])
        found.append([params[0]["rows"].tobytes(), params[1].tobytes()])
    assert found[0] == found[1]


@by_backend
def test_two_gradients_in_a_tuple_are_two(backend: str) -> None:
    """A tuple in the place of the list is a list of gradients, whatever it holds."""
    start = [values(k, COUNT, 4, np.float32) for k in (1, 2)]
    for kind in (list, tuple):
        params = kind(p.copy() for p in start)
        fu.SGD(params, lr=1.0, backend=backend).step((start[0], start[1]))
        assert not any(p.any() for p in params)
        with pytest.raises(TypeError, match=r"grads\[0\]: expected float32, received int64"):
            fu.SGD(params, lr=1.0, backend=backend).step((np.zeros((COUNT, 4), np.int64), start[1]))


@by_backend
def test_numbers_of_the_rows_within_slices(backend: str) -> None:
    """Of three axes, a gradient touches slices, each of which has several rows."""
    start, width = values(1, COUNT * 4, 150, np.float32).reshape(COUNT, 4, 150), 600
    params, alone = [start.copy()], [start[[2, 6]].copy()]
    opt = fu.RowwiseAdagrad(params, lr=0.1, weight_decay=0.03, backend=backend)
    beside = fu.RowwiseAdagrad(alone, lr=0.1, weight_decay=0.03, backend=backend)
    for k in range(3):
        grad = values(20 + k, 2, width, np.float32).reshape(2, 4, 150)
        opt.step([rows([6, 2], grad)])
        beside.step([grad[::-1]])
    expected = start.copy()
    expected[[2, 6]] = alone[0]
    assert_same_bits(params, [expected], "rows")
    assert_same_bits(opt.state["total"][0][[2, 6]], beside.state["total"][0], "numbers")
    assert np.count_nonzero(opt.state["total"][0]) == 8
