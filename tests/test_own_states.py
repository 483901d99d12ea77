"""States of one's own: live, brought along, and gone on from at another step."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from cases import Case, arrays_of, assert_same_bits, by_case, by_rule, fingerprint, random_arrays
from scenarios import accumulate, bring, do, network

import fastupdate as fu


@by_rule
def test_states_are_the_live_arrays(case: Case) -> None:
    opt = case.make({"w": np.ones(5, np.float32)})
    before = {name: (tree["w"], tree["w"].copy()) for name, tree in opt.state.items()}
    opt.step({"w": np.full(5, 2.0, np.float32)})
    for live, copied in before.values():
        assert (live != copied).any()


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
