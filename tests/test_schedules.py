"""Schedules against other libraries, and what every schedule promises: arrays, copies, equality, exact ends."""

import copy
import math
import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from peers import peer
from schedule_cases import SAMPLES, SCHEDULES, N, assert_same, torch_optimizer

from fastupdate import schedules as fs


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
    ("rising_beta2", 1.0, lambda m, o: m.LambdaLR(o, lambda t: 1 - (t + 1) ** -0.8)),
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
    for name in ("foo", *schedule.__dataclass_fields__):
        words = rf"\[{type(schedule).__name__}\] {name}: expected a new schedule \(opt.lr = it\).*, received 1.0"
        with pytest.raises(FrozenInstanceError, match=words):
            setattr(schedule, name, 1.0)


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
