"""What an optimizer keeps: states, averages, step counts; and that a resumed run has the bits of an unbroken one."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import (
    Case,
    arrays_of,
    assert_same_bits,
    by_backend,
    by_case,
    by_rule,
    cases_of,
    exactly,
    fingerprint,
    random_arrays,
)
from peers import peer

import fastupdate as fu
from fastupdate import groups, schedules

Call = tuple[Any, ...]  # a method of the optimizer and its arguments


def network(seed: int = 0) -> dict[str, Any]:
    """Both dtypes, nesting, strides, a scalar, an empty array."""
    a, b, c, d = random_arrays(seed, [15, 2100, 4, 1], np.float64)
    return {
        "layers": [
            {"w": a.astype(np.float32).reshape(5, 3).T, "b": b.astype(np.float32)},
            {"w": np.repeat(c, 2)[::2], "b": d.reshape(())},
        ],
        "empty": np.zeros((0, 3), np.float32),
    }


def grads(seed: int) -> dict[str, Any]:
    return network(seed + 1)


def step(k: int) -> Call:
    return ("step", grads(k))


def accumulate(k: int) -> Call:
    return ("accumulate", grads(k))


def poisoned(k: int) -> Call:
    tree = grads(k)
    tree["layers"][0]["b"][1500] = np.nan
    return ("step", tree)


def metric(value: float) -> Call:
    return ("metric", value)


def do(opt: fu.Optimizer, call: Call) -> None:
    name, *arguments = call
    if name == "metric":
        opt.groups[0]["lr"].update(*arguments)
    elif name == "set lr":
        opt.groups[0]["lr"] = arguments[0]
    else:
        getattr(opt, name)(*arguments)


# Options (made anew for each optimizer, for `plateau` has a state), and the calls of a run.
SCENARIOS: dict[str, tuple[Callable[[], dict[str, Any]], list[Call]]] = {
    "plain": (dict, [step(0), step(1), step(2)]),
    "everything kept": (
        lambda: {"ema_decay": 0.9, "shadow": "bfloat16", "lookahead": (2, 0.5), "clip_norm": 1.0, "l1": 1e-3},
        [step(0), step(1), step(2)],
    ),
    "float16 copies": (lambda: {"shadow": "float16", "monitor": True}, [step(0), step(1)]),
    "micro-batches": (dict, [accumulate(0), accumulate(1), ("step",), accumulate(2), accumulate(3), ("step",)]),
    "skipped": (lambda: {"nonfinite": "skip"}, [step(0), poisoned(1), step(2)]),
    "schedules": (
        lambda: {"lr": schedules.cosine(0.1, 4), "groups": [{"params": "*.b", "lr": schedules.linear(0.2, 3)}]},
        [step(0), step(1), step(2)],
    ),
    "plateau": (
        lambda: {"lr": schedules.plateau(0.1, factor=0.5, patience=1), "groups": [{"params": "*.b", "lr_scale": 0.5}]},
        [step(0), metric(1.0), metric(2.0), step(1), metric(3.0), step(2), metric(4.0), step(3)],
    ),
    "frozen by hand": (
        dict,
        [step(0), ("freeze", "layers.0.*"), step(1), step(2), ("unfreeze", "layers.0.b"), step(3), step(4)],
    ),
    "thawing by date": (
        lambda: {"groups": groups.gradual_unfreezing(["layers.0.*", "layers.1.*", "empty"], 1), "lookahead": (2, 0.5)},
        [step(0), accumulate(1), accumulate(2), ("step",), step(3), step(4)],
    ),
    "another rate": (lambda: {"lr": 0.1}, [step(0), ("set lr", 0.05), step(1), ("start_at", 100), step(2)]),
}  # fmt: skip


def scenarios() -> list[Any]:
    return [
        pytest.param(options, calls, k, id=f"{name}-{k}")
        for name, (options, calls) in SCENARIOS.items()
        for k in range(len(calls))
    ]


def assert_equal(a: fu.Optimizer, b: fu.Optimizer) -> None:
    assert_same_bits([item.array for item in a.stepper.items], [item.array for item in b.stepper.items], "params")
    assert exactly(a.state_dict()) == exactly(b.state_dict())


def by_dict(opt: fu.Optimizer, make: Callable[[Any], fu.Optimizer], _: Path) -> fu.Optimizer:
    """State and parameters go by memory."""
    other = make(copy.deepcopy(opt.stepper.tree))
    other.load_state_dict(opt.state_dict())
    return other


def by_file(opt: fu.Optimizer, make: Callable[[Any], fu.Optimizer], path: Path) -> fu.Optimizer:
    """All goes by a file; the parameters are other ones before."""
    peer("safetensors")
    opt.save(path / "run")
    other = make(network(50))
    other.load_state_dict(fu.load(path / "run"))
    return other


def run(
    make: Callable[[Any], fu.Optimizer],
    calls: list[Call],
    pause: int | None = None,
    resume: Any = None,
    path: Any = None,
) -> fu.Optimizer:
    opt = make(network())
    for k, call in enumerate(calls):
        if k == pause:
            opt = resume(opt, make, path)
        do(opt, call)
    return opt


@pytest.mark.parametrize("resume", [by_dict, by_file])
@pytest.mark.parametrize(("options", "calls", "pause"), scenarios())
def test_a_resumed_run_has_the_bits_of_an_unbroken_one(
    options: Any, calls: list[Call], pause: int, resume: Any, tmp_path: Path
) -> None:
    def make(params: Any) -> fu.Optimizer:
        return fu.AdamW(params, **options())

    assert_equal(run(make, calls, pause, resume, tmp_path), run(make, calls))


@by_rule
@by_backend
def test_every_rule_resumes(case: Case, backend: str, tmp_path: Path) -> None:
    def make(params: Any) -> fu.Optimizer:
        return case.make(params, backend=backend, **SCENARIOS["everything kept"][0]())

    calls: list[Call] = [step(0), step(1), accumulate(2), ("step",), step(3)]
    assert_equal(run(make, calls, 3, by_file, tmp_path), run(make, calls))


def test_resuming_keeps_bound_gradients() -> None:
    opt, other = fu.Adam(network()), fu.Adam(network())
    buffers = grads(0)
    opt.bind(buffers)
    opt.freeze("layers.0.*")
    opt.load_state_dict(other.state_dict())  # thaws
    opt.step()
    other.step(grads(0))
    assert_equal(opt, other)


@pytest.mark.peer
def test_torch_parameters_are_found_where_they_are_now(tmp_path: Path) -> None:
    torch = peer("torch")
    w = torch.ones(5)
    opt = fu.Adam({"w": w}, ema_decay=0.9)
    opt.step({"w": torch.full((5,), 2.0)})
    opt.freeze("w")
    w.data = torch.zeros(5)
    with opt.ema_weights():
        assert torch.equal(w, torch.from_numpy(opt.ema["w"]))
    assert torch.equal(w, torch.zeros(5))
    w.data = torch.full((5,), 3.0)
    opt.save(tmp_path / "run")
    w.data = torch.ones(5)
    opt.load_state_dict(fu.load(tmp_path / "run"))
    assert torch.equal(w, torch.full((5,), 3.0))


# -- what state_dict gives --------------------------------------------------------------------------------------------


def test_state_dict_is_a_copy() -> None:
    opt = fu.Adam(network(), ema_decay=0.9, lr=schedules.plateau(0.1))
    do(opt, accumulate(0))
    taken = opt.state_dict()
    expected = copy.deepcopy(taken)
    do(opt, ("step",))
    do(opt, metric(1.0))
    opt.freeze("*")
    opt.groups[0]["params"].append("another")
    assert exactly(taken) == exactly(expected)


def plain(x: Any) -> bool:
    if isinstance(x, (dict, list)):
        return all(plain(value) for value in (x.values() if isinstance(x, dict) else x))
    return x is None or type(x) in (int, float, bool, str, np.ndarray)


@pytest.mark.parametrize("name", SCENARIOS)
def test_state_dict_holds_arrays_and_numbers_alone(name: str) -> None:
    options, calls = SCENARIOS[name]
    opt = run(lambda params: fu.AdamW(params, **options()), calls)
    assert plain(opt.state_dict())


def test_dtypes_are_kept() -> None:
    opt = fu.Adam(network(), shadow="bfloat16")
    arrays = opt.state_dict()["arrays"]
    kinds = {key: arrays[key].dtype.name for key in arrays if key.endswith(".w")}
    assert kinds == {
        "state.m.layers.0.w": "float32", "state.v.layers.0.w": "float32", "shadow.layers.0.w": "uint16",
        "state.m.layers.1.w": "float64", "state.v.layers.1.w": "float64", "shadow.layers.1.w": "uint16",
    }  # fmt: skip


# -- loading: all or nothing ------------------------------------------------------------------------------------------


def make_plain(params: Any = None) -> fu.Optimizer:
    return fu.Adam(
        params or network(),
        lr=schedules.plateau(0.1),
        eps=schedules.constant(1e-6),
        ema_decay=0.9,
        groups=[{"params": "*.b", "weight_decay": 0.1}],
    )


def put(*path: Any) -> Callable[[Any], None]:
    """Sets the entry at a path to the last argument."""

    def change(state: Any) -> None:
        for key in path[:-2]:
            state = state[key]
        state[path[-2]] = path[-1]

    return change


def drop(*path: Any) -> Callable[[Any], None]:
    def change(state: Any) -> None:
        for key in path[:-1]:
            state = state[key]
        del state[path[-1]]

    return change


M = ("arrays", "state.m.layers.0.w")
WRONG: dict[str, tuple[Callable[[Any], None], str]] = {
    "no version": (drop("version"), r"state_dict\['version'\]: expected an entry, received none"),
    "a later version": (put("version", 4), r"state_dict\['version'\]: expected at most 3 .*, received 4"),
    "another entry": (put("more", 1), r"state_dict\['more'\]: expected no such entry"),
    "another rule": (put("rule", "sgd"), r"state_dict\['rule'\]: expected 'adam', received 'sgd'"),
    "other flags": (put("flags", {"amsgrad": True}), r"\['flags'\]: expected \{'amsgrad': False\}, received"),
    "no flags": (put("flags", {}), r"\['flags'\]: expected \{'amsgrad': False\}, received \{\}"),
    "a step before the first": (put("step", -1), r"\['step'\]: expected an integer in \[0, 2⁶³\), received -1"),
    "half a step": (put("step", 1.5), r"\['step'\]: expected an integer"),
    "a true step": (put("step", True), r"\['step'\]: expected an integer"),
    "a step in words": (put("step", "one"), r"\['step'\]: expected an integer"),
    "too many steps": (put("step", 2**63), r"\['step'\]: expected an integer"),
    "micro-batches": (put("micro_batches", None), r"\['micro_batches'\]: expected an integer"),
    "no weight": (drop("weight"), r"state_dict\['weight'\]: expected an entry, received none"),
    "a weight below 0": (put("weight", -1.0), r"state_dict\['weight'\]: expected a finite number ≥ 0, received -1.0"),
    "skips in words": (put("skips", "1"), r"state_dict\['skips'\]: expected an integer in \[0, 2⁶³\), received '1'"),
    "a past of outliers": (put("outliers", {"loss": []}), r"state_dict\['outliers'\]: expected no such entry"),
    "no mapping of outliers": (put("outliers", []), r"state_dict\['outliers'\]: expected a mapping, received list"),
    "a limit's schedule": (put("limits", {"clip_norm": {}}), r"\['limits.clip_norm'\]: expected no such entry"),
    "missing accumulators": (put("micro_batches", 2), r"\['arrays'\]\['accumulator.layers.0.w'\]: expected an entry"),
    "no tensors": (put("tensors", None), r"\['tensors'\]: expected a mapping, received NoneType"),
    "a missing tensor": (drop("tensors", "layers.1.b"), r"\['tensors'\]\['layers.1.b'\]: expected an entry"),
    "an extra tensor": (put("tensors", "x", {}), r"\['tensors'\]\['x'\]: expected no such entry"),
    "a tensor's step": (put("tensors", "empty", "step", 0.5), r"\['empty'\]\['step'\]: expected an integer"),
    "a tensor's date": (put("tensors", "empty", "frozen_until", np.nan), r"\['frozen_until'\]: expected a number ≥ 0"),
    "a tensor's word": (put("tensors", "empty", "frozen_until", "x"), r"\['frozen_until'\]: expected a number ≥ 0"),
    "no groups": (put("groups", {}), r"\['groups'\]: expected a list of 2 groups, received dict"),
    "fewer groups": (drop("groups", 1), r"\['groups'\]: expected a list of 2 groups, received 1 of them"),
    "other members": (put("groups", 1, "params", ["empty"]), r"\['groups'\]\[1\]\['params'\]: expected \['layers"),
    "no beta1": (drop("groups", 1, "beta1"), r"\['groups'\]\[1\]\['beta1'\]: expected an entry"),
    "another hyperparameter": (put("groups", 1, "rho", 0.1), r"\['groups'\]\[1\]\['rho'\]: expected no such entry"),
    "a bad beta1": (put("groups", 1, "beta1", 1.0), r"beta1: expected a number in \[0, 1\), received 1.0"),
    "a beta1 in words": (put("groups", 1, "beta1", "0.9"), "beta1: expected a number"),
    "a number for a schedule": (put("groups", 1, "lr", 0.1), r"\['groups'\]\[1\]\['lr'\]: expected a schedule"),
    "a schedule for a number": (put("groups", 1, "beta1", {"schedule": {}}), r"\['beta1'\]: expected a number, as in"),
    "a plateau's state": (put("groups", 1, "lr", "schedule", "best", np.nan), "best: expected a number, received nan"),
    "no plateau's state": (put("groups", 1, "lr", {"schedule": {}}), "state: expected the keys value, best"),
    "a constant's state": (put("groups", 0, "eps", {"schedule": {"x": 1}}), r"\['schedule'\]\['x'\]: expected no such"),
    "no arrays": (put("arrays", [1]), r"\['arrays'\]: expected a mapping, received list"),
    "a missing state": (drop(*M), r"\['arrays'\]\['state.m.layers.0.w'\]: expected an entry, received none"),
    "no average": (drop("arrays", "ema.empty"), r"\['arrays'\]\['ema.empty'\]: expected an entry"),
    "slow weights": (put("arrays", "slow.empty", np.zeros((0, 3))), r"\['slow.empty'\]: expected no such entry"),
    "some parameters": (put("arrays", "param.empty", np.zeros((0, 3), "f4")), r"\['param.layers.0.w'\]: expected"),
    "another shape": (put(*M, np.zeros((5, 3), np.float32)), r"\['state.m.layers.0.w'\]: expected shape \(3, 5\)"),
    "broadcastable": (put(*M, np.float32(0)), r"expected shape \(3, 5\), received shape \(\)"),
    "a row": (put(*M, np.zeros((1, 5), np.float32)), r"expected shape \(3, 5\), received shape \(1, 5\)"),
    "another dtype": (put(*M, np.zeros((3, 5))), "expected float32, received float64"),
    "swapped bytes": (put(*M, np.zeros((3, 5), ">f4")), "expected float32, received >f4"),
    "None": (put(*M, None), "expected an array, received None"),
    "a list": (put(*M, [[0.0] * 5] * 3), "expected an array, received list"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_state_is_named_and_changes_nothing(change: Callable[[Any], None], message: str) -> None:
    opt, other = make_plain(), make_plain(network(7))
    for k in range(2):
        do(opt, step(k))
        do(other, step(k + 4))
        do(other, metric(float(k)))
    do(other, ("freeze", "layers.1.*"))
    state = other.state_dict()
    change(state)
    before = exactly(opt.state_dict()), fingerprint(opt)
    with pytest.raises((ValueError, TypeError), match=rf"\[(adam|plateau)\].*{message}"):
        opt.load_state_dict(state)
    assert (exactly(opt.state_dict()), fingerprint(opt)) == before
    opt.load_state_dict(other.state_dict())
    assert exactly(opt.state_dict()) == exactly(other.state_dict())


OTHERS: dict[str, tuple[Callable[[Any], fu.Optimizer], str]] = {
    "rule": (fu.AdamW, r"\['rule'\]: expected 'adamw', received 'adam'"),
    "flag": (lambda p: fu.Adam(p, amsgrad=True), r"\['flags'\]: expected \{'amsgrad': True\}"),
    "average": (lambda p: fu.Adam(p, ema_decay=0.9), r"\['ema.layers.0.w'\]: expected an entry, received none"),
    "slow weights": (lambda p: fu.Adam(p, lookahead=(2, 0.5)), r"\['slow.layers.0.w'\]: expected an entry"),
    "copies": (lambda p: fu.Adam(p, shadow="float16"), r"\['shadow.layers.0.w'\]: expected an entry"),
    "groups": (lambda p: fu.Adam(p, groups=groups.no_decay(p)), r"\['groups'\]: expected a list of 2 groups"),
    "tensors": (lambda p: fu.Adam(p["layers"]), r"\['tensors'\]\['0.w'\]: expected an entry"),
}


@pytest.mark.parametrize(("make", "message"), OTHERS.values(), ids=OTHERS)
def test_the_state_of_another_kind_of_optimizer_is_refused(make: Any, message: str) -> None:
    state = fu.Adam(network()).state_dict()
    opt = make(network())
    before = fingerprint(opt)
    with pytest.raises(ValueError, match=message):
        opt.load_state_dict(state)
    assert fingerprint(opt) == before


def test_a_read_only_parameter_is_found_before_anything_is_copied(tmp_path: Path) -> None:
    peer("safetensors")
    other = make_plain(network(7))
    do(other, step(0))
    other.save(tmp_path / "run")
    opt = make_plain()
    opt.stepper.tree["layers"][1]["w"].flags.writeable = False
    before = fingerprint(opt)
    with pytest.raises(ValueError, match=r"\[adam\] params\['layers'\]\[1\]\['w'\]: expected a writable array"):
        opt.load_state_dict(fu.load(tmp_path / "run"))
    assert fingerprint(opt) == before


# -- states of one's own ----------------------------------------------------------------------------------------------


@by_rule
def test_states_are_the_live_arrays(case: Case) -> None:
    opt = case.make({"w": np.ones(5, np.float32)})
    before = {name: (tree["w"], tree["w"].copy()) for name, tree in opt.state.items()}
    opt.step({"w": np.full(5, 2.0, np.float32)})
    for live, copied in before.values():
        assert (live != copied).any()


def bring(case: Case, seed: int = 3) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """A parameter and positive states for it."""
    names = case.make({"w": np.ones(50)}).state
    arrays = random_arrays(seed, [50] * len(names), np.float64)
    return {"w": random_arrays(0, [50], np.float64)[0]}, {
        name: {"w": np.abs(array)} for name, array in zip(names, arrays, strict=True)
    }


@by_case
@pytest.mark.parametrize("form", [dict, lambda states: list(states.values())], ids=["named", "in order"])
def test_states_may_be_brought_along(case: Case, form: Any) -> None:
    params, states = bring(case)
    opt = case.make(params, state=form(states))
    assert all(opt.state[name]["w"] is states[name]["w"] for name in states)
    other_params, other_states = bring(case)
    other = case.make(other_params)
    for name, tree in other.state.items():
        tree["w"][...] = other_states[name]["w"]
    for optimizer_ in (opt, other):
        optimizer_.step({"w": random_arrays(9, [50], np.float64)[0]})
    assert_same_bits(list(arrays_of(opt).values()), list(arrays_of(other).values()), "arrays")


def zeros(**kinds: Any) -> dict[str, dict[str, np.ndarray]]:
    return {name: {"w": np.zeros(*arguments)} for name, arguments in kinds.items()}


SHARED_STATE = np.zeros(4, np.float32)
WRONG_STATES: dict[str, tuple[Any, type[Exception], str]] = {
    "too few": (zeros(m=(4, "f4")), ValueError, "state: expected m, v, received m"),
    "too many": ([{"w": np.zeros(4, "f4")}] * 3, ValueError, "state: expected m, v, received 3 of them"),
    "another name": (zeros(m=(4, "f4"), s=(4, "f4")), ValueError, "state: expected m, v, received m, s"),
    "no such tensor": ({"m": {}, "v": {}}, ValueError, r"state\['m'\]\['w'\]: expected an array for each parameter"),
    "shape": (zeros(m=(4, "f4"), v=(5, "f4")), ValueError, r"state\['v'\]\['w'\]: expected shape \(4,\)"),
    "dtype": (zeros(m=(4, "f8"), v=(4, "f4")), TypeError, r"state\['m'\]\['w'\]: expected float32, received float64"),
    "strided": (
        {"m": {"w": np.zeros(8, "f4")[::2]}, "v": {"w": np.zeros(4, "f4")}}, ValueError, "expected a contiguous",
    ),
    "twice": ({"m": {"w": SHARED_STATE}, "v": {"w": SHARED_STATE}}, ValueError, "overlapping arrays"),
}  # fmt: skip


@pytest.mark.parametrize(("state", "error", "message"), WRONG_STATES.values(), ids=WRONG_STATES)
def test_wrong_states_are_refused(state: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"\[adam\] .*{message}"):
        fu.Adam({"w": np.ones(4, np.float32)}, state=state)


@by_case
def test_start_at_goes_on_from_states_trained_elsewhere(case: Case) -> None:
    params, _ = bring(case)
    trained = case.make(params)
    for k in range(3):
        trained.step({"w": random_arrays(k, [50], np.float64)[0]})
    copied = copy.deepcopy(trained.state)
    other = case.make({"w": params["w"].copy()}, state=copied)
    other.start_at(4)
    for opt in (trained, other):
        assert opt.step({"w": random_arrays(9, [50], np.float64)[0]}).step == 4
    assert_same_bits(list(arrays_of(trained).values()), list(arrays_of(other).values()), "arrays")


@pytest.mark.parametrize("wrong", [0, -1, 1.0, True, "1", 2**62], ids=repr)
def test_start_at_refuses_other_than_step_numbers(wrong: Any) -> None:
    opt = fu.Adam(network())
    before = fingerprint(opt)
    with pytest.raises((TypeError, ValueError), match=r"\[adam\] step: expected an integer ≥ 1"):
        opt.start_at(wrong)
    assert fingerprint(opt) == before


def test_start_at_waits_for_accumulated_gradients() -> None:
    opt = fu.Adam(network())
    do(opt, accumulate(0))
    with pytest.raises(ValueError, match=r"\[adam\] step: expected no accumulated micro-batches"):
        opt.start_at(5)
    do(opt, ("step",))
    assert opt.step_count == 1


# -- averages and slow weights ----------------------------------------------------------------------------------------


class StopError(Exception):
    """Raised inside a context by a test."""


@by_backend
@pytest.mark.parametrize("leave", ["normally", "by an error"])
def test_ema_weights_are_lent_and_given_back(leave: str, backend: str) -> None:
    (case,) = cases_of("sgd")[:1]
    opt = case.make(network(), ema_decay=0.9, backend=backend)
    do(opt, step(0))
    do(opt, step(1))
    before, average = fingerprint(opt), [item.slots["ema"].copy() for item in opt.stepper.items]
    try:
        with opt.ema_weights():
            assert_same_bits([item.array for item in opt.stepper.items], average, "params")
            opt.stepper.tree["layers"][0]["w"][:] = 0  # what is written inside is lost
            if leave == "by an error":
                raise StopError
    except StopError:
        assert leave == "by an error"
    assert fingerprint(opt) == before


def test_the_average_is_what_its_formula_says() -> None:
    w = np.ones(3)
    opt = fu.SGD({"w": w}, lr=0.1, ema_decay=0.75)
    expected = np.ones(3)
    for _ in range(3):
        opt.step({"w": np.ones(3)})
        expected = expected + 0.25 * (w - expected)
    assert_same_bits(opt.ema["w"], expected, "ema")


def test_ema_weights_need_an_average() -> None:
    with (
        pytest.raises(ValueError, match=r"\[adam\] ema_decay: expected a decay, set when the optimizer was made"),
        fu.Adam(network()).ema_weights(),
    ):
        pass


BUSY: dict[str, Callable[[fu.Optimizer], Any]] = {
    "step": lambda opt: opt.step(grads(0)),
    "accumulate": lambda opt: opt.accumulate(grads(0)),
    "bind": lambda opt: opt.bind(grads(0)),
    "freeze": lambda opt: opt.freeze("*"),
    "unfreeze": lambda opt: opt.unfreeze("*"),
    "start_at": lambda opt: opt.start_at(5),
    "state_dict": lambda opt: opt.state_dict(),
    "load_state_dict": lambda opt: opt.load_state_dict({}),
    "save": lambda opt: opt.save("nowhere"),
    "ema_weights": lambda opt: opt.ema_weights().__enter__(),
}


@pytest.mark.parametrize("call", BUSY.values(), ids=BUSY)
@pytest.mark.parametrize("thread", ["same", "another"])
def test_an_optimizer_that_lends_its_weights_is_busy(call: Any, thread: str) -> None:
    opt = fu.Adam(network(), ema_decay=0.9)
    errors: list[BaseException] = []

    def attempt() -> None:
        try:
            call(opt)
        except fu.BusyError as error:
            errors.append(error)

    before = fingerprint(opt)
    with opt.ema_weights():
        if thread == "same":
            attempt()
        else:
            other = threading.Thread(target=attempt)
            other.start()
            other.join()
    assert "[adam] busy: another call, or ema_weights(), is running on this optimizer" in str(errors[0])
    assert fingerprint(opt) == before
    opt.step(grads(0))


@by_rule
def test_lookahead_pulls_back_every_so_many_steps(case: Case) -> None:
    params, fast = bring(case)[0], bring(case)[0]
    opt, other = case.make(params, lookahead=(2, 0.5)), case.make(fast)
    slow = params["w"].copy()
    for k in range(4):
        g = {"w": random_arrays(k, [50], np.float64)[0]}
        fast["w"][...] = params["w"]
        for name, tree in other.state.items():
            tree["w"][...] = opt.state[name]["w"]
        opt.step(g)
        other.step(g)
        if k % 2:
            slow = slow + 0.5 * (fast["w"] - slow)
        assert_same_bits(params["w"], slow if k % 2 else fast["w"], f"step {k + 1}")
