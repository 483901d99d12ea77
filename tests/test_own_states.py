"""States of one's own: live, brought along, and gone on from at another step."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from cases import Case, arrays_of, assert_same_bits, by_backend, by_case, by_rule, fingerprint, random_arrays
from peers import peer
from scenarios import accumulate, bring, do, network
from test_layouts import in_order
from unchanged import strided

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


ORDERS = {"C": np.ascontiguousarray, "F": np.asfortranarray, "last": lambda a: in_order(a, "last"), "strided": strided}
LYING = [  # of the parameter, of its two states, and whether these may lie so where memory is walked, and elsewhere
    ("C", ("C", "C"), True, True),
    ("F", ("C", "C"), True, True),
    ("strided", ("C", "C"), True, True),
    ("F", ("F", "F"), True, False),
    ("last", ("last", "last"), True, False),
    ("F", ("F", "C"), False, False),
    ("F", ("C", "last"), False, False),
    ("F", ("F", "strided"), False, False),
    ("C", ("F", "F"), False, False),
    ("strided", ("F", "F"), False, False),
]


@pytest.mark.parametrize(
    "options", [{}, {"clip_norm": 0.5, "ema_decay": 0.9, "shadow": "bfloat16"}, {"centralize": True}]
)
@pytest.mark.parametrize(("order", "orders", "walked", "elsewhere"), LYING)
@by_backend
def test_states_may_lie_in_memory_as_their_parameter_does(
    backend: str, order: str, orders: tuple[str, str], walked: bool, elsewhere: bool, options: dict[str, Any]
) -> None:
    """They are the states themselves, so that what lies otherwise is refused, with the remedy."""
    p, m, v, g = (np.abs(a).reshape(5, 7, 3, 4) for a in random_arrays(3, [420] * 4, np.float32))
    plain, params = fu.Adam([p.copy()], state=[[m.copy()], [v.copy()]], backend=backend, **options), [ORDERS[order](p)]
    states = [[ORDERS[name](a)] for name, a in zip(orders, (m, v), strict=True)]
    before = [a.copy() for a in (*params, *states[0], *states[1])]
    if not (walked if plain.stepper.walks_memory else elsewhere):
        k = next(k for k, name in enumerate(orders) if name != "C")
        expected = r"expected a contiguous, aligned array \(x.copy\(\) is one\)"
        with pytest.raises(ValueError, match=rf"\[adam\] state\['{'mv'[k]}'\]\[0\]: {expected}.*, received strides"):
            fu.Adam(params, state=states, backend=backend, **options)
        assert_same_bits([*params, *states[0], *states[1]], before, "all")
        return
    opt = fu.Adam(params, state=states, backend=backend, **options)
    assert all(opt.state[name][0] is states[k][0] for k, name in enumerate("mv"))
    for gradient in (g, np.asfortranarray(g)):
        for each in (opt, plain):
            each.step([gradient])
    for each in (opt, plain):
        each.accumulate([g])
        each.step()
    assert_same_bits([*arrays_of(opt).values()], [*arrays_of(plain).values()], "arrays")
    assert_same_bits([states[0][0], states[1][0]], [plain.state[name][0] for name in "mv"], "states")
    for copied in (copy.deepcopy(opt), fu.Adam([p.copy()], backend=backend, **options)):
        copied.load_state_dict(opt.state_dict())
        assert_same_bits([copied.state["v"][0]], [states[1][0]], "a copy")


def test_a_functional_call_takes_states_that_lie_as_the_parameter_does() -> None:
    arrays = [np.abs(a).reshape(30, 40) for a in random_arrays(3, [1200] * 4, np.float32)]
    taken = [np.asfortranarray(a) for a in arrays]
    for each in (arrays, taken):
        fu.functional.adam(*each, step=3)
    assert_same_bits(taken, arrays, "arrays")


@pytest.mark.peer
def test_a_parameter_in_other_memory_goes_on_lying_as_its_states() -> None:
    torch = peer("torch")
    p, v = torch.nn.Parameter(torch.ones(4, 3).T), torch.zeros(4, 3).T
    opt = fu.Momentum([p], lr=1.0, beta=1.0, state=[[v]])
    p.grad = torch.ones(3, 4)
    opt.step()
    p.data = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"params\[0\]: expected an array that lies in memory as its states"):
        opt.step()
    p.data = torch.zeros(4, 3).T
    assert opt.step().step == 2
    assert (p == -2.0).all()
    assert (v == -2.0).all()


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
