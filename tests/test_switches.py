"""Switches: an option, a flag, a number of a rule or an argument that is on or off, and nothing between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import assert_same_bits, by_backend
from test_numbers import WHOLE, arrays, by_whole, step

import fastupdate as fu
from fastupdate import functional
from fastupdate.arrays.numbers import COUNT, SWITCH
from fastupdate.rules.rule import Hyper


def adafactor(**options: Any) -> fu.Optimizer:
    return fu.Adafactor([np.ones((2, 2))], **options)


def assigned(x: Any, scheduled: bool) -> Any:
    opt = adafactor()
    opt.scale_parameter = (lambda t: x) if scheduled else x  # type: ignore[attr-defined]
    opt.step([np.ones((2, 2))])
    return bool(opt.groups[0].numbers["scale_parameter"])


def loaded(strict: Any) -> bool:
    """Whether a state of other groups is refused."""
    try:
        step().load_state_dict(step(groups=[{"params": "0", "lr": 1.0}], ema_decay=0.5).state_dict(), strict=strict)
    except ValueError as error:
        if "strict: expected" in str(error):
            raise
        return True
    return False


def nesterov_in_place(x: Any) -> bool:
    p, b, v = (np.ones(3) for _ in range(3))
    fu.functional.sgd(p, np.ones(3), b, step=2, momentum=0.5, nesterov=x)
    fu.functional.sgd(v, np.ones(3), np.ones(3), step=2, momentum=0.5, nesterov=False)
    return bool((p != v).any())


SWITCHES: dict[str, tuple[Callable[[Any], bool], str]] = {  # what each is then, and its name in messages
    "option": (lambda x: fu.SGD(arrays(), monitor=x).monitor, "sgd] monitor"),
    "flag": (lambda x: fu.SGD(arrays(), momentum=0.5, nesterov=x).nesterov, "sgd] nesterov"),
    "flag of a call": (nesterov_in_place, "sgd] nesterov"),
    "number": (lambda x: bool(adafactor(scale_parameter=x).scale_parameter), "adafactor] scale_parameter"),
    "number of a group": (
        lambda x: bool(adafactor(groups=[{"params": "0", "scaled_decay": x}]).scaled_decay),
        "adafactor] scaled_decay",
    ),
    "number that is set": (lambda x: assigned(x, scheduled=False), "adafactor] scale_parameter"),
    "number of a schedule": (lambda x: assigned(x, scheduled=True), "adafactor] scale_parameter"),
    "one_cycle": (lambda x: fu.schedules.one_cycle(0.1, 10, three_phase=x).three_phase, "one_cycle] three_phase"),
    "inverse_time": (lambda x: fu.schedules.inverse_time(0.1, 1.0, staircase=x).staircase, "inverse_time] staircase"),
    "polynomial": (lambda x: fu.schedules.polynomial(0.1, 10, cycle=x).cycle, "polynomial] cycle"),
    "strict": (loaded, "sgd] strict"),
}


@by_whole
@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("on", [False, True])
def test_a_truth_value_may_come_from_anywhere(on: bool, name: str, kind: str) -> None:
    assert SWITCHES[name][0](WHOLE[kind](on)) is on


NO_SWITCH: list[Any] = [0.5, np.float32(0.5), 2, -1, np.nan, "no", None, np.ones(2), np.array(0.5)]


@pytest.mark.parametrize("name", SWITCHES)
def test_what_is_no_truth_value_is_refused(name: str) -> None:
    """It was taken for on, or by half."""
    act, place = SWITCHES[name]
    for value in NO_SWITCH:
        with pytest.raises(ValueError, match=rf"\[{place}: expected one of False, True, received "):
            act(value)
    for value in NO_SWITCH[:6]:
        with pytest.raises(ValueError, match=r"\[monitor\] tensorboard: expected one of False, True, received "):
            fu.Monitor(tensorboard=value)


def test_native_calls_let_python_look_at_whole_numbers() -> None:
    for interval in (COUNT, SWITCH):
        _, low, *_ = functional._hyper(Hyper(1.0, interval, ""))
        assert low == np.inf


@by_backend
def test_truth_values_stand_for_0_and_1_where_a_hyperparameter_is_a_switch(backend):
    """Elsewhere they are no numbers."""
    for on in (False, True):
        weights = [np.ones((2, 3)) for _ in range(3)]
        for w, value in zip(weights, (float(on), on, np.bool_(on)), strict=True):
            fu.Adafactor([w], lr=2.0, relative_step=value, backend=backend).step([np.arange(1.0, 7.0).reshape(2, 3)])
        assert_same_bits(weights[1:], weights[:1] * 2, str(on))
    with pytest.raises(TypeError, match=r"\[adafactor\] lr: expected .* received True"):
        fu.Adafactor([np.ones(3)], lr=True, backend=backend)


# Arguments that a rule looks at together with others: what is wrong with one by itself is said first.
AT_ODDS: dict[str, tuple[dict[str, Any], str]] = {
    "a flag of two": ({"momentum": 0.5, "nesterov": np.ones(2)}, "nesterov: expected one of False, True"),
    "a number of two": ({"momentum": np.ones(2), "nesterov": True}, "momentum: expected a finite number ≥ 0"),
    "beside a number": ({"dampening": "x", "momentum": 0.5, "nesterov": True}, r"dampening: expected a number in \[0"),
    "in every group": (
        {"momentum": "x", "groups": [{"params": "*", "momentum": 0.5}]},
        "momentum: expected a finite number ≥ 0",
    ),
    "together": ({"momentum": 0, "nesterov": True}, "nesterov: expected momentum > 0 and dampening 0"),
}


@pytest.mark.parametrize("name", AT_ODDS)
def test_an_argument_that_is_wrong_by_itself_is_named(name: str) -> None:
    options, message = AT_ODDS[name]
    with pytest.raises((TypeError, ValueError), match=rf"^\[sgd\] {message}"):
        fu.SGD([np.ones(3)], **options)
