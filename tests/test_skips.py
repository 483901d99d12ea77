"""Skipped steps: how many in a row, and the loss scale that follows from them."""

from __future__ import annotations

import numpy as np
import pytest
from cases import (
    by_backend,
    fingerprint,
)
from peers import peer

import fastupdate as fu


@pytest.mark.parametrize("limit", [1, 3])
@by_backend
def test_a_limit_on_skipped_steps_in_a_row(backend, limit):
    p = np.ones(3)
    opt = fu.SGD({"w": p, "b": np.ones(2)}, backend=backend, nonfinite="skip", max_skips=limit)
    good, bad = ({"w": np.full(3, x), "b": np.ones(2)} for x in (0.5, np.inf))
    for _ in range(2):
        for _ in range(limit):
            assert opt.step(bad).skipped
        for _ in range(2):  # one more, and again
            before = fingerprint(opt)
            words = rf"\[sgd\] grads\['w'\]: expected finite values after {limit} skipped steps in a row \(max_skips\)"
            with pytest.raises(FloatingPointError, match=words):
                opt.step(bad)
            assert fingerprint(opt) == before
        assert not opt.step(good).skipped  # and the count starts afresh
    assert opt.step_count == 2


def test_skipped_micro_batches_count_as_one_step():
    opt = fu.SGD([np.ones(3)], nonfinite="skip", max_skips=1)
    for error in (None, FloatingPointError):
        for _ in range(3):
            opt.accumulate([np.full(3, np.nan)])
        if error is None:
            assert opt.step().skipped
            continue
        with pytest.raises(error, match="after 1 skipped steps"):
            opt.step()
    opt.accumulate([np.ones(3)])
    assert not opt.step().skipped


SCALERS = {
    "defaults": {},
    "eager": {"init": 64.0, "growth_factor": 4.0, "backoff_factor": 0.25, "growth_interval": 2},
    "patient": {"init": np.float32(2.0), "growth_interval": np.int64(5)},
}


@pytest.mark.peer
@pytest.mark.parametrize("arguments", SCALERS.values(), ids=SCALERS)
def test_loss_scale_equals_torch(arguments):
    """GradScaler's scale over 200 steps, some of whose gradients are not finite, and as much after resuming."""
    torch = peer("torch")
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in arguments.items()}
    theirs = torch.amp.GradScaler("cpu", init_scale=plain.pop("init", 2.0**16), **plain)
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], lr=0.0)
    ours, opt = fu.LossScale(**arguments), fu.SGD([np.ones(3, np.float32)], lr=0.0, nonfinite="skip")
    values = set()
    for step, bad in enumerate(np.random.default_rng(0).random(200) < 0.15):
        theirs.scale(torch.zeros(())).item()
        p.grad = torch.full((3,), np.inf if bad else 1.0)
        theirs.step(optimizer)
        theirs.update()
        ours.update(opt.step([np.full(3, np.inf if bad else 1.0, np.float32)], loss_scale=ours.value))
        assert ours.value == theirs.get_scale()
        values.add(ours.value)
        if step == 100:
            resumed = fu.LossScale(**arguments)
            resumed.load_state_dict(ours.state_dict())
            ours = resumed
    assert len(values) > 3


def test_a_loss_scale_stays_where_float32_can_invert_it():
    opt = fu.SGD([np.ones(3, np.float32)], lr=0.0, nonfinite="skip")
    for grad, start, end in ((1.0, 2.0**125, 2.0**126), (np.nan, 2.0**-125, 2.0**-126)):
        scale = fu.LossScale(start, growth_interval=1)
        for _ in range(3):
            scale.update(opt.step([np.full(3, grad, np.float32)], loss_scale=scale.value))
        assert scale.value == end


WRONG_SCALES = {
    "init": (lambda: fu.LossScale(0), ValueError, "init: expected a number in"),
    "growth": (lambda: fu.LossScale(growth_factor=1.0), ValueError, "growth_factor: expected a finite number > 1"),
    "backoff": (lambda: fu.LossScale(backoff_factor=1.0), ValueError, r"backoff_factor: expected a number in \(0, 1\)"),
    "interval": (lambda: fu.LossScale(growth_interval=0), ValueError, "growth_interval: expected an integer ≥ 1"),
    "report": (
        lambda: fu.LossScale().update(fu.SGD([np.ones(3)]).step([np.ones(3)])),
        ValueError,
        "report: expected one of an optimizer with nonfinite='skip', received",
    ),
    "state": (
        lambda: fu.LossScale().load_state_dict({"value": 1.0}),
        ValueError,
        "state: expected the keys value, good",
    ),
    "value": (lambda: fu.LossScale().load_state_dict({"value": np.nan, "good": 1}), ValueError, "value: expected"),
}


@pytest.mark.parametrize(("call", "error", "message"), WRONG_SCALES.values(), ids=WRONG_SCALES)
def test_wrong_arguments_of_loss_scales(call, error, message):
    with pytest.raises(error, match=rf"\[LossScale\] {message}"):
        call()
