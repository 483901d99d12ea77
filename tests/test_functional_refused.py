"""Calls of `fu.functional` that are refused: with the words of an optimizer, and nothing has moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import assert_same_bits, random_arrays

import fastupdate as fu
from fastupdate import functional
from fastupdate.engines import choose

pytestmark = pytest.mark.skipif(choose.native_problem() is not None, reason="there is no native module")

Call = Callable[..., fu.Report]


def arguments() -> dict[str, Any]:
    """A good call of Adam on two parameters."""
    p, g, m, v = (random_arrays(seed, [6, 8], np.float32) for seed in range(4))
    return {"arrays": [p, g, m, [np.abs(a) for a in v]], "step": 3, "lr": 0.1}


def put(row: int, k: int, make: Callable[[np.ndarray], Any]) -> Callable[[dict[str, Any]], None]:
    def change(call: dict[str, Any]) -> None:
        call["arrays"][row][k] = make(call["arrays"][row][k])

    return change


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def in_place(name: str, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Sets an attribute of the header."""

    def change(array: np.ndarray) -> np.ndarray:
        setattr(array, name, value)
        return array

    return change


def alias(row: int, k: int, other: int, j: int, part: slice = slice(None)) -> Callable[[dict[str, Any]], None]:
    def change(call: dict[str, Any]) -> None:
        call["arrays"][row][k] = call["arrays"][other][j][part]

    return change


def keyword(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda call: call.update(changes)


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "gradient dtype": put(1, 1, lambda a: a.astype(np.float64)),
    "gradient shape": put(1, 0, lambda a: a[:3].copy()),
    "gradient dimensions": put(1, 1, lambda a: a.reshape(2, 4)),
    "gradient None": put(1, 1, lambda a: None),
    "state dtype": put(3, 1, lambda a: a.astype(np.float16)),
    "state shape": put(2, 0, lambda a: np.zeros(7, np.float32)),
    "gradient reshaped in place": put(1, 1, in_place("shape", (2, 4))),
    "gradient retyped in place": put(1, 1, in_place("dtype", np.int32)),
    "state reshaped in place": put(2, 1, in_place("shape", (4, 2))),
    "state byte-swapped in place": put(3, 0, in_place("dtype", ">f4")),
    "parameter reshaped in place": put(0, 0, in_place("shape", (2, 3))),
    "state strided": put(2, 1, lambda a: np.repeat(a, 2)[::2]),
    "state read-only": put(3, 0, read_only),
    "parameter read-only": put(0, 1, read_only),
    "parameter integer": put(0, 1, lambda a: a.astype(np.int64)),
    "parameter half": put(0, 0, lambda a: a.astype(np.float16)),
    "parameter byte-swapped": put(0, 0, lambda a: a.astype(">f4")),
    "parameter text": put(0, 0, lambda a: "text"),
    "gradient is the parameter": alias(1, 0, 0, 0),
    "state is the parameter": alias(2, 1, 0, 1),
    "states are one": alias(3, 1, 2, 1),
    "the same parameter twice": alias(0, 1, 0, 0),
    "gradient within another parameter": alias(1, 0, 0, 1, slice(1, 7)),
    "state within another state": alias(2, 0, 2, 1, slice(2, 8)),
    "too few gradients": lambda call: call["arrays"][1].pop(),
    "too few states": lambda call: call["arrays"][3].pop(),
    "a state too few": lambda call: call["arrays"].pop(),
    "a state too many": lambda call: call["arrays"].append([np.zeros(6, np.float32), np.zeros(8, np.float32)]),
    "no gradients": lambda call: call.update(arrays=call["arrays"][:1]),
    "nothing": lambda call: call.update(arrays=[[], [], [], []]),
    "a tuple for a list": lambda call: call["arrays"].__setitem__(1, 5),
    "step 0": keyword(step=0),
    "step −1": keyword(step=-1),
    "step too large": keyword(step=2**62),
    "step huge": keyword(step=2**80),
    "step True": keyword(step=True),
    "step 1.0": keyword(step=1.0),
    "no step": lambda call: call.pop("step"),
    "lr negative": keyword(lr=-1e-3),
    "lr NaN": keyword(lr=float("nan")),
    "lr infinite": keyword(lr=float("inf")),
    "lr and decay huge": keyword(lr=1e30, weight_decay=1e30),
    "eps vanishing": keyword(eps=1e-60),
    "lr huge": keyword(lr=10**400),
    "lr text": keyword(lr="1e-3"),
    "lr None": keyword(lr=None),
    "lr True": keyword(lr=True),
    "beta 1": keyword(betas=(0.9, 1.0)),
    "one beta": keyword(betas=(0.9,)),
    "betas a number": keyword(betas=0.9),
    "unknown option": keyword(fused=True),
    "monitor and ema": keyword(ema_decay=0.9, monitor=True),
    "lookahead": keyword(lookahead=(5, 0.5)),
    "shadow": keyword(shadow="bfloat16"),
    "state": keyword(state=[]),
    "unknown backend": keyword(backend="fortran"),
    "nonfinite": lambda call: (put(1, 0, lambda a: a * np.float32(np.inf))(call), call.update(nonfinite="raise")),
}


def outcome(function: Call, call: dict[str, Any]) -> tuple[type[BaseException], str, list[bytes]]:
    arrays = call.pop("arrays")
    with pytest.raises(Exception) as raised:  # noqa: PT011  whatever it is, both raise the same
        function(*arrays, **call)
    left = [a.tobytes() for row in arrays if isinstance(row, list) for a in row if isinstance(a, np.ndarray)]
    return raised.type, str(raised.value), left


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("again", [False, True], ids=["at once", "after a good call"])
@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_as_in_python_and_nothing_moves(what: str, again: bool) -> None:
    results = []
    for function in (functional.adam, functional.in_python(fu.Adam)):
        call = arguments()
        if again:
            function(*call["arrays"], step=2, lr=0.1)
        WRONG[what](call)
        before = [
            a.tobytes() for row in call["arrays"] if isinstance(row, list) for a in row if isinstance(a, np.ndarray)
        ]
        error, words, after = outcome(function, call)
        assert after == before
        results.append((error, words))
    assert results[0] == results[1]
    assert issubclass(results[0][0], (TypeError, ValueError, FloatingPointError, RuntimeError, OverflowError))


@pytest.mark.parametrize("pair", ["pg", "pm", "pv", "gm", "gv", "mv"])
@pytest.mark.parametrize("shift", [0, 1, 7])
def test_single_arrays_that_overlap_are_refused(pair: str, shift: int) -> None:
    memory = random_arrays(9, [16], np.float32)[0]
    arrays = {name: random_arrays(k, [8], np.float32)[0] for k, name in enumerate("pgmv")}
    arrays[pair[0]], arrays[pair[1]] = memory[:8], memory[shift : shift + 8]
    before = [a.tobytes() for a in (memory, *arrays.values())]
    with pytest.raises(ValueError, match=r"\[adam\] .*: expected memory apart from"):
        functional.adam(*arrays.values(), step=1, lr=0.1)
    assert [a.tobytes() for a in (memory, *arrays.values())] == before
    arrays[pair[1]] = memory[8:]
    np.abs(arrays["v"], out=arrays["v"])
    functional.adam(*arrays.values(), step=1, lr=0.1)


REMEMBERED: dict[str, dict[str, Any]] = {
    "ema_decay": {"ema_decay": 0.9},
    "lookahead": {"lookahead": (5, 0.5)},
    "shadow": {"shadow": "float16"},
    "state": {"state": []},
    "outliers": {"outliers": (4.0, 10)},
    "max_skips": {"max_skips": 3, "nonfinite": "skip"},
    "frozen_until": {"groups": iter([{"params": "*", "frozen_until": 5}])},
}


@pytest.mark.parametrize("option", REMEMBERED)
def test_options_that_remember_something_are_refused_by_name(option: str) -> None:
    p, g = random_arrays(0, [3, 3], np.float32)
    before = p.copy()
    with pytest.raises(ValueError, match=rf"^\[sgd\] {option}: expected nothing that is remembered .*fu\.SGD"):
        functional.sgd([p], [g], step=7, lr=0.1, **REMEMBERED[option])
    assert_same_bits(p, before, "after the error")
    off = {"groups": [{"params": "*", "frozen_until": 0}]} if option == "frozen_until" else {option: None}
    functional.sgd([p], [g], step=7, lr=0.1, **off)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("lr", [0.1, 0.2])
def test_a_rules_own_check_is_asked(momentum: float, lr: float) -> None:
    p, g, b = random_arrays(0, [3, 3, 3], np.float32)
    states = [b] if momentum else []
    for _ in range(2):
        if momentum:
            functional.sgd(p, g, *states, step=1, lr=lr, momentum=momentum, nesterov=True)
        else:
            with pytest.raises(ValueError, match=r"\[sgd\] nesterov: expected momentum > 0"):
                functional.sgd(p, g, *states, step=1, lr=lr, momentum=momentum, nesterov=True)
