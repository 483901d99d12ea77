"""Schedules that depend on more than the step: plateaus, and plain functions, alone and within others."""

import json
import math
import pickle

import numpy as np
import pytest
from peers import peer
from schedule_cases import assert_same, torch_optimizer

import fastupdate as fu
from fastupdate import schedules as fs

NAN, INF = math.nan, math.inf
PLATEAUS = {
    "defaults": {},
    "impatient": {"patience": 0, "factor": 0.5},
    "cooldown": {"patience": 2, "cooldown": 3, "factor": 0.3, "threshold": 0.05},
    "max": {"patience": 3, "mode": "max", "cooldown": 1, "threshold": 0.1, "factor": 0.8},
    "floor": {"patience": 1, "factor": 0.2, "min_value": 0.004},
    "abs": {"patience": 2, "threshold": 0.05, "threshold_mode": "abs", "factor": 0.5},
    "abs-far": {"patience": 1, "threshold": 1.5, "threshold_mode": "abs", "factor": 0.9},
    "abs-max": {"patience": 1, "threshold": 0.2, "threshold_mode": "abs", "mode": "max", "cooldown": 2, "factor": 0.7},
}


def metrics(mode):
    values = np.random.default_rng(0).normal(1.0, 0.3, 400) + np.exp(-np.arange(400) / 50)
    return values if mode == "min" else -values + 5.0


@pytest.mark.peer
@pytest.mark.parametrize("arguments", PLATEAUS.values(), ids=PLATEAUS.keys())
def test_plateau_equals_torch(arguments):
    optimizer, ours = torch_optimizer(0.1), fs.plateau(0.1, **arguments)
    renamed = {"min_lr" if name == "min_value" else name: value for name, value in arguments.items()}
    theirs = peer("torch").optim.lr_scheduler.ReduceLROnPlateau(optimizer, eps=0.0, **renamed)
    values = []
    for step, metric in enumerate(metrics(ours.mode)):
        ours.update(metric)
        theirs.step(metric)
        values.append((ours(step), optimizer.param_groups[0]["lr"]))
    assert len(set(values)) > 2
    assert_same(*np.transpose(values))


@pytest.mark.parametrize("arguments", PLATEAUS.values(), ids=PLATEAUS.keys())
@pytest.mark.parametrize("restore", ["state_dict", "pickle"])
@pytest.mark.parametrize("after", [0, 1, 77])
def test_plateau_resumes(arguments, restore, after):
    original = fs.plateau(0.1, **arguments)
    for metric in metrics(original.mode)[:after]:
        original.update(metric)
    if restore == "pickle":
        resumed = pickle.loads(pickle.dumps(original))
    else:
        resumed = eval(repr(original), vars(fs).copy())
        resumed.load_state_dict(json.loads(json.dumps(original.state_dict(), allow_nan=False)))
    for metric in metrics(original.mode)[after:]:
        original.update(metric)
        resumed.update(metric)
        assert resumed == original


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"value": NAN}, ValueError),
        ({"value": None}, TypeError),
        ({"best": NAN}, ValueError),
        ({"bad": -1}, ValueError),
        ({"cooling": 1.5}, TypeError),
        ({"extra": 1}, ValueError),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_plateau_refuses_a_wrong_state(change, error):
    schedule = fs.plateau(0.1)
    schedule.update(2.0)
    before = schedule.state_dict()
    wrong = {"value": 9.0, "best": 9.0, "bad": 9, "cooling": 9, **change}
    with pytest.raises(error, match=r"\[plateau\] (state|value|best|bad|cooling): expected"):
        schedule.load_state_dict(wrong)
    assert schedule.state_dict() == before


def test_plateau_ignores_nan():
    schedule = fs.plateau(0.1)
    schedule.update(2.0)
    before = schedule.state_dict()
    with pytest.raises(ValueError, match=r"\[plateau\] metric"):
        schedule.update(NAN)
    assert schedule.state_dict() == before


def test_plateau_counts_infinite_metrics_as_bad():
    schedule = fs.plateau(0.1, patience=1)
    for _ in range(2):
        schedule.update(INF)
    assert schedule(2) == pytest.approx(0.01)
    assert schedule.state_dict()["best"] is None


# -- plain functions and plateaus within others ------------------------------------------------------------------------


def falling(step):
    assert type(step) is int
    return 0.1 * 0.97**step


# Of a part: the schedule made of it, and its value at each step.
AROUND = {
    "warmup": (lambda part: fs.warmup(part, 20), lambda f, t: f(0) * t / 20 if t < 20 else f(t - 20)),
    "join": (lambda part: fs.join([0.3, part, part], [5, 50]), lambda f, t: 0.3 if t < 5 else f((t - 5) % 45)),
    "scale": (lambda part: fs.scale(part, 0.5), lambda f, t: 0.5 * f(t)),
    "clip": (lambda part: fs.clip(part, 0.02, 0.05), lambda f, t: min(max(f(t), 0.02), 0.05)),
    "swa": (lambda part: fs.swa(part, 30, 0.2, 10, "linear"), lambda f, t: f(t) if t < 30 else annealed(f(30), t - 30)),
    "nested": (lambda part: fs.scale(fs.warmup(part, 20), 2), lambda f, t: f(0) * t / 10 if t < 20 else 2 * f(t - 20)),
}
around = pytest.mark.parametrize(("make", "formula"), AROUND.values(), ids=AROUND)


def annealed(value, t):
    return value + (0.2 - value) * min(t / 10, 1)


@around
def test_functions_stand_for_schedules(make, formula):
    schedule, steps = make(falling), np.arange(95)
    assert_same(schedule(steps), [formula(falling, t) for t in range(95)])
    np.testing.assert_array_equal(schedule(steps), [schedule(t) for t in range(95)])
    assert not schedule.pure
    assert pickle.loads(pickle.dumps(schedule)) == schedule == make(falling)
    assert hash(schedule) == hash(make(falling))
    assert repr(falling) in repr(schedule)


def test_functions_are_asked_about_their_own_steps_alone():
    asked = []
    fs.join([0.1, lambda step: asked.append(step) or 1.0, 0.2], [3, 6])(np.arange(9))
    assert asked == [0, 1, 2]


@pytest.mark.peer
def test_functions_may_give_any_number():
    optax = peer("optax")
    schedule = fs.warmup(optax.linear_schedule(0.5, 0.25, 2), 2)
    assert schedule(np.arange(5)).tolist() == [0.0, 0.25, 0.5, 0.375, 0.25]


@around
def test_a_plateau_within_others(make, formula):
    """It follows its metric, and its state goes along with the optimizer's."""
    plateau = fs.plateau(0.1, patience=0, factor=0.5)
    schedule = make(plateau)
    opt = fu.SGD([np.ones(3)], lr=schedule)
    assert not schedule.pure
    values = []
    for step in range(40):
        plateau.update(1.0)
        values.append(plateau(step))
        expected = formula(lambda t: values[-1], step)
        assert schedule(step) == pytest.approx(expected)
        assert opt.step([np.ones(3)]).lr == schedule(step)
    assert len(set(values)) == 40
    resumed = make(fs.plateau(0.1, patience=0, factor=0.5))
    other = fu.SGD([np.ones(3)], lr=resumed)
    other.load_state_dict(json.loads(json.dumps(opt.state_dict(), default=lambda array: array.tolist())))
    assert resumed(40) == schedule(40)
    assert resumed == schedule


def test_a_wrong_state_changes_none_of_the_parts():
    schedule = fs.join([fs.plateau(0.1), fs.plateau(0.2)], [5])
    good = fs.plateau(0.3).state_dict()
    for state in ({"0": good}, {"0": good, "1": {**good, "bad": -1}}, {"0": good, "2": good}, None):
        with pytest.raises(ValueError, match=r"\[(join|plateau)\] (state|bad): expected"):
            schedule.load_state_dict(state)
        assert schedule(np.array([0, 5])).tolist() == [0.1, 0.2]
    schedule.load_state_dict({"0": good, "1": good})
    assert schedule(np.array([0, 5])).tolist() == [0.3, 0.3]
