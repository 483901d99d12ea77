"""Averages and slow weights: by their formulas, lent and given back; meanwhile the optimizer is busy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import Case, assert_same_bits, by_backend, by_rule, cases_of, fingerprint, random_arrays
from scenarios import bring, do, grads, network, step

import fastupdate as fu


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
