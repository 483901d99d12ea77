import copy
import json
import math
import pickle
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from peers import peer

import fastupdate as fu
from fastupdate import schedules as fs

N = 140
SAMPLES = {
    "constant": fs.constant(0.3),
    "step_decay": fs.step_decay(0.1, drop=0.5, every=7),
    "multi_step": fs.multi_step(0.1, milestones=[10, 11, 60]),
    "exponential-rate": fs.exponential(0.1, rate=0.03),
    "exponential-gamma": fs.exponential(0.1, gamma=0.97),
    "cosine": fs.cosine(0.1, steps=100, end=0.002),
    "cosine-to-zero": fs.cosine(0.1, steps=97),
    "cosine-exponent": fs.cosine(0.1, steps=100, end=0.002, exponent=1.7),
    "cosine_restarts-equal": fs.cosine_restarts(0.1, period=13, end=0.001),
    "cosine_restarts-double": fs.cosine_restarts(0.1, period=5, factor=2),
    "cosine_restarts-triple": fs.cosine_restarts(0.1, period=3, factor=3, end=0.01),
    "cosine_restarts-decay": fs.cosine_restarts(0.1, period=5, factor=2, end=0.01, decay=0.7),
    "cosine_restarts-equal-decay": fs.cosine_restarts(0.1, period=13, end=0.01, decay=0.8),
    "cyclic": fs.cyclic(0.01, 0.1, up=7, down=10),
    "cyclic-halving": fs.cyclic(0.01, 0.1, up=9, mode="triangular2"),
    "cyclic-shrinking": fs.cyclic(0.01, 0.1, up=5, down=12, mode="exp_range", gamma=0.98),
    "cyclic-momentum": fs.cyclic(0.95, 0.85, up=9, down=4, mode="triangular2"),
    "inverse_time": fs.inverse_time(0.1, rate=0.5, every=10),
    "inverse_time-staircase": fs.inverse_time(0.1, rate=0.5, every=10, staircase=True),
    "linear": fs.linear(0.1, steps=60, end=0.02),
    "polynomial": fs.polynomial(0.1, steps=90, power=2.5),
    "polynomial-end": fs.polynomial(0.1, steps=90, end=0.03, power=2.0),
    "polynomial-cycle": fs.polynomial(0.1, steps=40, end=0.01, power=2.0, cycle=True),
    "one_cycle": fs.one_cycle(0.1, steps=N),
    "one_cycle-three-phases": fs.one_cycle(0.1, steps=N, three_phase=True),
    "one_cycle-three-phases-linear": fs.one_cycle(0.1, N, pct_start=0.45, kind="linear", three_phase=True),
    "one_cycle-linear": fs.one_cycle(0.1, N, pct_start=0.25, div_factor=10, final_div_factor=50, kind="linear"),
    "one_cycle-momentum": fs.one_cycle(0.85, steps=N, div_factor=0.85 / 0.95, final_div_factor=1),
    "one_cycle-join": fs.join([fs.cosine(0.004, 30, end=0.1), fs.cosine(0.1, 70, end=4e-7)], [30]),
    "inverse_sqrt": fs.inverse_sqrt((512 * 40) ** -0.5, warmup=40),
    "warmup_stable_decay": fs.warmup_stable_decay(0.1, warmup=20, stable=50, decay=30, end=0.01, start=0.001),
    "warmup_stable_decay-cosine": fs.warmup_stable_decay(0.1, warmup=0, stable=50, decay=30, kind="cosine"),
    "warmup_stable_decay-exponential": fs.warmup_stable_decay(0.1, 20, 50, 30, end=0.001, kind="exponential"),
    "warmup-linear": fs.warmup(fs.cosine(0.1, steps=80), steps=20, start=0.001),
    "warmup-cosine": fs.warmup(0.1, steps=20, kind="cosine"),
    "warmup-exponential": fs.warmup(fs.step_decay(0.1, 0.5, 9), steps=20, kind="exponential", start=1e-4),
    "join": fs.join([fs.linear(0.1, steps=30, end=0.05), 0.2, fs.exponential(0.1, gamma=0.9)], boundaries=[30, 55]),
    "scale": fs.scale(fs.cosine(0.1, steps=100), factor=0.25),
    "clip": fs.clip(fs.exponential(0.1, gamma=0.95), low=0.003),
    "clip-high": fs.clip(fs.exponential(0.001, gamma=1.05), high=0.1),
    "clip-both": fs.clip(fs.exponential(0.001, gamma=1.05), low=0.002, high=0.1),
    "swa": fs.swa(fs.step_decay(0.1, 0.5, 9), start=40, value=0.05, steps=30),
    "swa-linear": fs.swa(fs.cosine(0.1, 90), start=70, value=0.2, steps=30, kind="linear"),
}
SCHEDULES = [pytest.param(schedule, id=name) for name, schedule in SAMPLES.items()]


def test_samples_cover_every_schedule():
    assert {type(s).__name__ for s in SAMPLES.values()} == set(fs.__all__) - {"Schedule", "plateau", "plot"}


# Each row: the sample, the base learning rate, and torch's scheduler from its module and an optimizer at that rate.
TORCH = [
    ("constant", 0.3, lambda m, o: m.ConstantLR(o, factor=1.0)),
    ("step_decay", 0.1, lambda m, o: m.StepLR(o, step_size=7, gamma=0.5)),
    ("multi_step", 0.1, lambda m, o: m.MultiStepLR(o, milestones=[10, 11, 60], gamma=0.1)),
    ("exponential-rate", 0.1, lambda m, o: m.ExponentialLR(o, gamma=math.exp(-0.03))),
    ("exponential-gamma", 0.1, lambda m, o: m.ExponentialLR(o, gamma=0.97)),
    ("cosine", 0.1, lambda m, o: m.CosineAnnealingLR(o, T_max=100, eta_min=0.002)),
    ("cosine-to-zero", 0.1, lambda m, o: m.CosineAnnealingLR(o, T_max=97)),
    ("cosine_restarts-equal", 0.1, lambda m, o: m.CosineAnnealingWarmRestarts(o, T_0=13, eta_min=0.001)),
    ("cosine_restarts-double", 0.1, lambda m, o: m.CosineAnnealingWarmRestarts(o, T_0=5, T_mult=2)),
    ("cosine_restarts-triple", 0.1, lambda m, o: m.CosineAnnealingWarmRestarts(o, T_0=3, T_mult=3, eta_min=0.01)),
    ("linear", 0.1, lambda m, o: m.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=60)),
    ("polynomial", 0.1, lambda m, o: m.PolynomialLR(o, total_iters=90, power=2.5)),
    ("one_cycle", 0.1, lambda m, o: m.OneCycleLR(o, 0.1, N)),
    ("one_cycle-linear", 0.1, lambda m, o: m.OneCycleLR(o, 0.1, N, None, None, 0.25, "linear", False, 0, 0, 10, 50)),
    ("inverse_sqrt", 512**-0.5, lambda m, o: m.LambdaLR(o, lambda t: min((t + 1) ** -0.5, (t + 1) * 40**-1.5))),
    (
        "warmup_stable_decay",
        0.1,
        lambda m, o: m.SequentialLR(
            o,
            [
                m.LinearLR(o, start_factor=0.01, total_iters=20),
                m.ConstantLR(o, factor=1.0),
                m.LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=30),
            ],
            milestones=[20, 70],
        ),
    ),
    (
        "warmup-linear",
        0.1,
        lambda m, o: m.SequentialLR(o, [m.LinearLR(o, 0.01, total_iters=20), m.CosineAnnealingLR(o, 80)], [20]),
    ),
    (
        "join",
        0.1,
        lambda m, o: m.SequentialLR(
            o,
            [m.LinearLR(o, 1.0, 0.5, total_iters=30), m.LambdaLR(o, lambda t: 2.0), m.ExponentialLR(o, 0.9)],
            milestones=[30, 55],
        ),
    ),
    ("scale", 0.25, lambda m, o: m.LambdaLR(o, lambda t: 0.05 * (1 + math.cos(math.pi * min(t, 100) / 100)))),
    ("cyclic", 0.1, lambda m, o: m.CyclicLR(o, 0.01, 0.1, 7, 10, cycle_momentum=False)),
    ("cyclic-halving", 0.1, lambda m, o: m.CyclicLR(o, 0.01, 0.1, 9, mode="triangular2", cycle_momentum=False)),
    ("cyclic-shrinking", 0.1, lambda m, o: m.CyclicLR(o, 0.01, 0.1, 5, 12, "exp_range", 0.98, cycle_momentum=False)),
    ("one_cycle-three-phases", 0.1, lambda m, o: m.OneCycleLR(o, 0.1, N, three_phase=True)),
    (
        "one_cycle-three-phases-linear",
        0.1,
        lambda m, o: m.OneCycleLR(o, 0.1, N, pct_start=0.45, anneal_strategy="linear", three_phase=True),
    ),
    ("inverse_time", 0.1, lambda m, o: m.LambdaLR(o, lambda t: 1 / (1 + 0.05 * t))),
    ("clip-both", 1.0, lambda m, o: m.LambdaLR(o, lambda t: min(max(0.001 * 1.05**t, 0.002), 0.1))),
]
# torch's cosine starts to rise again after its end.
TORCH_STEPS = {"cosine": 101, "cosine-to-zero": 98, "warmup-linear": 101}

OPTAX = [
    ("constant", lambda m: m.constant_schedule(0.3)),
    ("step_decay", lambda m: m.exponential_decay(0.1, 7, 0.5, staircase=True)),
    ("multi_step", lambda m: m.piecewise_constant_schedule(0.1, {10: 0.1, 11: 0.1, 60: 0.1})),
    ("exponential-rate", lambda m: m.exponential_decay(0.1, 1, math.exp(-0.03))),
    ("exponential-gamma", lambda m: m.exponential_decay(0.1, 1, 0.97)),
    ("cosine", lambda m: m.cosine_decay_schedule(0.1, 100, alpha=0.02)),
    ("cosine-to-zero", lambda m: m.cosine_decay_schedule(0.1, 97)),
    ("cosine_restarts-double", lambda m: m.sgdr_schedule([sgdr(5), sgdr(10), sgdr(20), sgdr(40), sgdr(80)])),
    ("linear", lambda m: m.linear_schedule(0.1, 0.02, 60)),
    ("polynomial", lambda m: m.polynomial_schedule(0.1, 0.0, 2.5, 90)),
    ("polynomial-end", lambda m: m.polynomial_schedule(0.1, 0.03, 2.0, 90)),
    ("one_cycle-join", lambda m: m.cosine_onecycle_schedule(100, 0.1)),
    (
        "warmup_stable_decay",
        lambda m: m.join_schedules(
            [m.linear_schedule(0.001, 0.1, 20), m.constant_schedule(0.1), m.linear_schedule(0.1, 0.01, 30)], [20, 70]
        ),
    ),
    (
        "warmup_stable_decay-cosine",
        lambda m: m.join_schedules([m.constant_schedule(0.1), m.cosine_decay_schedule(0.1, 30)], [50]),
    ),
    (
        "warmup_stable_decay-exponential",
        lambda m: m.join_schedules(
            [m.linear_schedule(0.0, 0.1, 20), m.exponential_decay(0.1, 30, 0.01, 50, end_value=0.001)], [20]
        ),
    ),
    ("warmup-linear", lambda m: m.warmup_cosine_decay_schedule(0.001, 0.1, 20, 100)),
    (
        "warmup-cosine",
        lambda m: lambda t: 0.1 - m.cosine_decay_schedule(0.1, 20)(t),
    ),
    (
        "warmup-exponential",
        lambda m: m.join_schedules(
            [m.exponential_decay(1e-4, 20, 1e3), m.exponential_decay(0.1, 9, 0.5, staircase=True)], [20]
        ),
    ),
    (
        "join",
        lambda m: m.join_schedules(
            [m.linear_schedule(0.1, 0.05, 30), m.constant_schedule(0.2), m.exponential_decay(0.1, 1, 0.9)], [30, 55]
        ),
    ),
    ("scale", lambda m: m.cosine_decay_schedule(0.025, 100)),
    ("cosine-exponent", lambda m: m.cosine_decay_schedule(0.1, 100, alpha=0.02, exponent=1.7)),
    ("clip", lambda m: m.exponential_decay(0.1, 1, 0.95, end_value=0.003)),
    ("clip-high", lambda m: m.exponential_decay(0.001, 1, 1.05, end_value=0.1)),
]

KERAS = [
    ("cosine_restarts-decay", lambda m: m.CosineDecayRestarts(0.1, 5, t_mul=2.0, m_mul=0.7, alpha=0.1)),
    ("cosine_restarts-equal-decay", lambda m: m.CosineDecayRestarts(0.1, 13, t_mul=1.0, m_mul=0.8, alpha=0.1)),
    ("inverse_time", lambda m: m.InverseTimeDecay(0.1, 10, 0.5)),
    ("inverse_time-staircase", lambda m: m.InverseTimeDecay(0.1, 10, 0.5, staircase=True)),
    ("polynomial-cycle", lambda m: m.PolynomialDecay(0.1, 40, 0.01, power=2.0, cycle=True)),
    ("cosine-to-zero", lambda m: m.CosineDecay(0.1, 97)),
]

# The scheduler that SWALR takes over from, and the steps after which it does.
SWALR = [
    ("swa", lambda m, o: m.StepLR(o, step_size=9, gamma=0.5), 40, {"swa_lr": 0.05, "anneal_epochs": 30}),
    (
        "swa-linear",
        lambda m, o: m.CosineAnnealingLR(o, T_max=90),
        70,
        {"swa_lr": 0.2, "anneal_epochs": 30, "anneal_strategy": "linear"},
    ),
]


def sgdr(steps):
    return {"init_value": 0.1, "peak_value": 0.1, "warmup_steps": 0, "decay_steps": steps}


def assert_same(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12 * np.abs(ours).max())


def torch_optimizer(base, **arguments):
    torch = peer("torch")
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base, **arguments)


def torch_values(optimizer, scheduler, steps, name="lr"):
    values = []
    for _ in range(steps):
        values.append(float(optimizer.param_groups[0][name]))
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
@pytest.mark.parametrize(("name", "base", "make"), [pytest.param(*row, id=row[0]) for row in TORCH])
def test_equals_torch(name, base, make):
    optimizer = torch_optimizer(base)
    steps = TORCH_STEPS.get(name, N)
    scheduler = make(peer("torch").optim.lr_scheduler, optimizer)
    assert_same(SAMPLES[name](np.arange(steps)), torch_values(optimizer, scheduler, steps))


@pytest.mark.peer
def test_one_cycle_gives_torch_momentum():
    optimizer = torch_optimizer(0.1, momentum=0.9)
    scheduler = peer("torch").optim.lr_scheduler.OneCycleLR(optimizer, 0.1, N)
    assert_same(SAMPLES["one_cycle-momentum"](np.arange(N)), torch_values(optimizer, scheduler, N, "momentum"))


@pytest.mark.peer
@pytest.mark.parametrize("name", ["cyclic-momentum"])
def test_cyclic_gives_torch_momentum(name):
    optimizer = torch_optimizer(0.1, momentum=0.9)
    arguments = {"step_size_up": 9, "step_size_down": 4, "base_momentum": 0.85, "max_momentum": 0.95}
    scheduler = peer("torch").optim.lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, mode="triangular2", **arguments)
    assert_same(SAMPLES[name](np.arange(N)), torch_values(optimizer, scheduler, N, "momentum"))


@pytest.mark.peer
@pytest.mark.parametrize(("name", "make", "start", "arguments"), [pytest.param(*row, id=row[0]) for row in SWALR])
def test_equals_torch_swalr(name, make, start, arguments):
    torch, optimizer = peer("torch"), torch_optimizer(0.1)
    before = torch_values(optimizer, make(torch.optim.lr_scheduler, optimizer), start)
    after = torch_values(optimizer, torch.optim.swa_utils.SWALR(optimizer, **arguments), N - start)
    assert_same(SAMPLES[name](np.arange(N)), before + after)


@pytest.mark.peer
def test_a_step_is_a_fraction_of_an_epoch():
    """torch takes fractions of epochs; here a schedule of epochs is one of as many steps as they have."""
    optimizer, per_epoch = torch_optimizer(0.1), 7
    scheduler = peer("torch").optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=3, T_mult=2)
    values = []
    for step in range(N):
        scheduler.step(step / per_epoch)
        values.append(optimizer.param_groups[0]["lr"])
    assert_same(fs.cosine_restarts(0.1, period=3 * per_epoch, factor=2)(np.arange(N)), values)


@pytest.mark.peer
@pytest.mark.parametrize(("name", "make"), [pytest.param(*row, id=row[0]) for row in KERAS])
def test_equals_keras(name, make, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # float64, which JAX would have to be switched to
    peer("torch")
    keras = peer("keras")
    monkeypatch.setattr(keras.src.backend.config, "_FLOATX", "float64")
    theirs = make(keras.optimizers.schedules)
    assert_same(SAMPLES[name](np.arange(N)), [float(theirs(step)) for step in range(N)])


@pytest.mark.peer
@pytest.mark.parametrize(("name", "make"), [pytest.param(*row, id=row[0]) for row in OPTAX])
def test_equals_optax(name, make):
    optax, jax = peer("optax"), peer("jax")
    with jax.enable_x64(True):
        theirs = np.asarray(jax.vmap(make(optax))(jax.numpy.arange(N)))
    assert theirs.dtype == np.float64
    assert_same(SAMPLES[name](np.arange(N)), theirs)


def test_every_schedule_has_a_peer():
    compared = {row[0] for row in TORCH + OPTAX + KERAS + SWALR} | {"one_cycle-momentum", "cyclic-momentum"}
    assert compared == set(SAMPLES)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, N])
def test_scalars_and_arrays_have_the_same_bits(schedule, length):
    steps = np.arange(N)[-length:]
    scalars = [schedule(int(step)) for step in steps]
    assert {type(value) for value in scalars} == {float}
    np.testing.assert_array_equal(schedule(steps), scalars, strict=True)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("start", [0, 60, 10**6])
def test_a_table_of_values_has_the_bits_of_single_ones(schedule, start):
    """An engine may work out the values of the next 1024 steps at once."""
    assert schedule.pure
    steps = np.arange(start, start + 1024)
    np.testing.assert_array_equal(schedule(steps), [schedule(step) for step in range(start, start + 1024)], strict=True)


ARRAYS = {
    "matrix": np.arange(12).reshape(3, 4),
    "transposed": np.arange(12).reshape(3, 4).T,
    "strided": np.arange(40)[::3],
    "0-d": np.array(5),
    "empty": np.arange(0),
    "int32": np.arange(5, dtype=np.int32),
    "uint64": np.arange(5, dtype=np.uint64),
    "far": np.array([10**6, 10**12]),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", ARRAYS.values(), ids=ARRAYS.keys())
def test_arrays_keep_their_shape(schedule, steps):
    values = schedule(steps)
    assert (values.shape, values.dtype) == (steps.shape, np.float64)
    assert [schedule(int(t)) for t in steps.flat] == list(values.flat)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_round_trips(schedule):
    restored = [pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule), eval(repr(schedule), vars(fs).copy())]
    assert restored == [schedule] * 3
    assert {hash(s) for s in restored} == {hash(schedule)}
    assert all(s(17) == schedule(17) for s in restored)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_are_frozen(schedule):
    with pytest.raises((FrozenInstanceError, TypeError)):
        schedule.start = 1.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (fs.cosine(1, steps=np.int64(9)), fs.cosine(1.0, steps=9, end=np.float32(0))),
        (fs.join([0.1, fs.constant(0.2)], np.array([3])), fs.join((fs.constant(0.1), 0.2), (3,))),
        (fs.warmup(0.1, 5), fs.warmup(fs.constant(0.1), 5)),
    ],
    ids=["numbers", "sequences", "schedules"],
)
def test_equal_arguments_make_equal_schedules(one, other):
    assert one == other
    assert repr(one) == repr(other)


@pytest.mark.parametrize(("one", "other"), [(fs.linear(1, 9), fs.cosine(1, 9)), (fs.linear(1, 9), fs.linear(1, 8))])
def test_different_schedules_differ(one, other):
    assert one != other


@pytest.mark.parametrize(
    ("schedule", "first", "last_step", "end"),
    [
        pytest.param(fs.cosine(0.3, 10, end=0.1), 0.3, 10, 0.1, id="cosine"),
        pytest.param(fs.linear(0.3, 10, end=0.1), 0.3, 10, 0.1, id="linear"),
        pytest.param(fs.polynomial(0.3, 10, end=0.1, power=3), 0.3, 10, 0.1, id="polynomial"),
        pytest.param(
            fs.one_cycle(0.3, 10, div_factor=3, final_div_factor=10), 0.3 / 3, 9, 0.3 / 3 / 10, id="one_cycle"
        ),
        pytest.param(fs.warmup_stable_decay(0.3, 4, 3, 3, end=0.1, kind="exponential"), 0.0, 10, 0.1, id="wsd"),
        pytest.param(fs.warmup(0.3, 7, start=0.1), 0.1, 7, 0.3, id="warmup"),
    ],
)
def test_ends_are_exact_and_held(schedule, first, last_step, end):
    assert (schedule(0), schedule(last_step), schedule(10 * last_step)) == (first, end, end)
    assert schedule(last_step - 1) != end


NAN, INF = math.nan, math.inf
ERRORS = [
    (lambda: fs.constant(NAN), ValueError, "[constant] value: expected a finite number, received nan"),
    (lambda: fs.constant("1"), TypeError, "[constant] value: expected a finite number, received '1'"),
    (lambda: fs.constant(True), TypeError, "[constant] value: expected a finite number, received True"),
    (lambda: fs.cosine(1, steps=-3), ValueError, "[cosine] steps: expected an integer ≥ 1, received -3"),
    (lambda: fs.cosine(1, steps=10.0), TypeError, "[cosine] steps: expected an integer ≥ 1, received 10.0"),
    (lambda: fs.cosine(INF, steps=3), ValueError, "[cosine] start: expected a finite number, received inf"),
    (lambda: fs.linear(1, 5, NAN), ValueError, "[linear] end: expected a finite number, received nan"),
    (
        lambda: fs.polynomial(1, 5, power=0),
        ValueError,
        "[polynomial] power: expected a finite number > 0, received 0",
    ),
    (lambda: fs.step_decay(1, 0.5, 0), ValueError, "[step_decay] every: expected an integer ≥ 1, received 0"),
    (lambda: fs.step_decay(1, -1, 5), ValueError, "[step_decay] drop: expected a finite number > 0, received -1"),
    (
        lambda: fs.multi_step(1, [5, 5]),
        ValueError,
        "[multi_step] milestones: expected strictly increasing integers ≥ 1, received (5, 5)",
    ),
    (
        lambda: fs.multi_step(1, 5),
        TypeError,
        "[multi_step] milestones: expected strictly increasing integers ≥ 1, received 5",
    ),
    (
        lambda: fs.exponential(1),
        ValueError,
        "[exponential] rate, gamma: expected exactly one of the two, received (None, None)",
    ),
    (
        lambda: fs.exponential(1, rate=1, gamma=0.5),
        ValueError,
        "[exponential] rate, gamma: expected exactly one of the two, received (1, 0.5)",
    ),
    (lambda: fs.exponential(1, rate=NAN), ValueError, "[exponential] rate: expected a finite number, received nan"),
    (
        lambda: fs.exponential(1, gamma=0),
        ValueError,
        "[exponential] gamma: expected a finite number > 0, received 0",
    ),
    (
        lambda: fs.cosine_restarts(1, 5, factor=1.5),
        TypeError,
        "[cosine_restarts] factor: expected an integer ≥ 1, received 1.5",
    ),
    (lambda: fs.one_cycle(1, 10, 0.1), ValueError, "[one_cycle] pct_start: expected above 1/steps = 0.1, received 0.1"),
    (lambda: fs.one_cycle(1, 10, 1), ValueError, "[one_cycle] pct_start: expected a number in [0, 1), received 1"),
    (
        lambda: fs.one_cycle(1, 10, kind="cos"),
        ValueError,
        "[one_cycle] kind: expected one of linear, cosine, exponential, received 'cos'",
    ),
    (lambda: fs.inverse_sqrt(1, 0), ValueError, "[inverse_sqrt] warmup: expected an integer ≥ 1, received 0"),
    (
        lambda: fs.warmup_stable_decay(1, -1, 2, 3),
        ValueError,
        "[warmup_stable_decay] warmup: expected an integer ≥ 0, received -1",
    ),
    (
        lambda: fs.warmup_stable_decay(1, 1, 2, 3, kind="exponential"),
        ValueError,
        "[warmup_stable_decay] end: expected a number above 0 for kind='exponential', received 0.0",
    ),
    (
        lambda: fs.warmup(1, 5, kind="exponential"),
        ValueError,
        "[warmup] start: expected a number above 0 for kind='exponential', received 0.0",
    ),
    (
        lambda: fs.warmup("1", 5),
        TypeError,
        "[warmup] schedule: expected a schedule, a function of the step or a number, received '1'",
    ),
    (lambda: fs.warmup(NAN, 5), ValueError, "[warmup] schedule: expected a finite number, received nan"),
    (
        lambda: fs.join([1, None], [5]),
        TypeError,
        "[join] schedules: expected a schedule, a function of the step or a number, received None",
    ),
    (
        lambda: fs.warmup(lambda step: NAN, 5)(7),
        ValueError,
        "[schedules] <lambda>(2): expected a finite number, received nan",
    ),
    (
        lambda: fs.scale(lambda step: "1", 5)(7),
        TypeError,
        "[schedules] <lambda>(7): expected a finite number, received '1'",
    ),
    (lambda: fs.clip(1.0), ValueError, "[clip] low, high: expected a floor, a ceiling or both, received neither"),
    (lambda: fs.clip(1.0, low=2, high=1), ValueError, "[clip] low: expected at most high = 1.0, received 2.0"),
    (lambda: fs.clip(1.0, low=NAN), ValueError, "[clip] low: expected a finite number, received nan"),
    (
        lambda: fs.cyclic(0.1, 1, 5, mode="square"),
        ValueError,
        "[cyclic] mode: expected one of triangular, triangular2, exp_range, received 'square'",
    ),
    (lambda: fs.cyclic(0.1, 1, 5, 0), ValueError, "[cyclic] down: expected an integer ≥ 1, received 0"),
    (lambda: fs.inverse_time(1, -1), ValueError, "[inverse_time] rate: expected a finite number ≥ 0, received -1"),
    (
        lambda: fs.one_cycle(1, 10, 0.6, three_phase=True),
        ValueError,
        "[one_cycle] pct_start: expected below 0.55 for three phases, received 0.6",
    ),
    (
        lambda: fs.swa(0.1, 5, 0, kind="exponential"),
        ValueError,
        "[swa] value: expected a number above 0 for kind='exponential', received 0.0",
    ),
    (
        lambda: fs.scale(1, 5).load_state_dict({"value": 1}),
        ValueError,
        "[scale] state: expected an empty mapping, received ['value']",
    ),
    (lambda: fs.scale(fs.constant(1), NAN), ValueError, "[scale] factor: expected a finite number, received nan"),
    (lambda: fs.join(3, [1]), TypeError, "[join] schedules: expected a sequence of schedules, received 3"),
    (
        lambda: fs.join([1, 2], [1, 2]),
        ValueError,
        "[join] schedules: expected 3 schedules for 2 boundaries, received 2",
    ),
    (
        lambda: fs.join([1, 2, 3], [5, 4]),
        ValueError,
        "[join] boundaries: expected strictly increasing integers ≥ 1, received (5, 4)",
    ),
    (
        lambda: fs.join([1, 2], [0]),
        ValueError,
        "[join] boundaries: expected an integer ≥ 1, received 0",
    ),
    (lambda: fs.linear(1, 5)(-1), ValueError, "[linear] step: expected non-negative integers, received -1"),
    (
        lambda: fs.linear(1, 5)(np.array([1, -2])),
        ValueError,
        "[linear] step: expected non-negative integers, received array([ 1, -2])",
    ),
    (
        lambda: fs.linear(1, 5)(2.0),
        TypeError,
        "[linear] step: expected an integer or a NumPy array of integers, received 2.0",
    ),
    (
        lambda: fs.linear(1, 5)([1]),
        TypeError,
        "[linear] step: expected an integer or a NumPy array of integers, received [1]",
    ),
    (
        lambda: fs.linear(1, 5)(True),
        TypeError,
        "[linear] step: expected an integer or a NumPy array of integers, received True",
    ),
    (lambda: fs.plot(steps=0), ValueError, "[plot] steps: expected an integer ≥ 1, received 0"),
    (lambda: fs.plateau(-1), ValueError, "[plateau] start: expected a finite number ≥ 0, received -1"),
    (lambda: fs.plateau(1, factor=1), ValueError, "[plateau] factor: expected a number in [0, 1), received 1"),
    (
        lambda: fs.plateau(1, patience=-1),
        ValueError,
        "[plateau] patience: expected an integer ≥ 0, received -1",
    ),
    (
        lambda: fs.plateau(1, threshold=NAN),
        ValueError,
        "[plateau] threshold: expected a finite number ≥ 0, received nan",
    ),
    (
        lambda: fs.plateau(1, threshold=1),
        ValueError,
        "[plateau] threshold: expected a number in [0, 1), received 1.0",
    ),
    (
        lambda: fs.plateau(1, threshold_mode="absolute"),
        ValueError,
        "[plateau] threshold_mode: expected one of rel, abs, received 'absolute'",
    ),
    (lambda: fs.plateau(1, mode="least"), ValueError, "[plateau] mode: expected one of min, max, received 'least'"),
    (lambda: fs.plateau(1, min_value=2), ValueError, "[plateau] min_value: expected at most start = 1.0, received 2.0"),
    (lambda: fs.plateau(1).update(NAN), ValueError, "[plateau] metric: expected a number, received nan"),
    (
        lambda: fs.plateau(1).update(None),
        TypeError,
        "[plateau] metric: expected a number, received None",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), [pytest.param(*row, id=row[2]) for row in ERRORS])
def test_wrong_arguments_are_named(call, error, message):
    if "plot" in message:
        peer("matplotlib")
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


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


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot_draws_and_saves(suffix, tmp_path):
    peer("matplotlib")
    path = tmp_path / f"schedules.{suffix}"
    figure = fs.plot(SAMPLES["cosine"], SAMPLES["linear"], steps=50, path=path)
    assert path.stat().st_size > 0
    for line, name in zip(figure.axes[0].lines, ["cosine", "linear"], strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(50))
        np.testing.assert_array_equal(line.get_ydata(), SAMPLES[name](np.arange(50)))


def test_plot_says_how_to_get_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install fastupdate\[demo\]"):
        fs.plot(SAMPLES["cosine"], steps=5)
