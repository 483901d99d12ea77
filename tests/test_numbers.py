"""Numbers from anywhere: every place that takes one takes the same ones, and says what it expected."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from cases import assert_same_bits, by_backend, fingerprint
from peers import peer

import fastupdate as fu
from fastupdate.arrays.numbers import (
    BELOW_ONE,
    COUNT,
    FINITE,
    FRACTION,
    LIMIT,
    NON_NEGATIVE,
    POSITIVE,
    SHARE,
    Interval,
    integer,
    real,
)
from fastupdate.arrays.place import Place

# What makes a number of a Python one.
KINDS: dict[str, Callable[[Any], Any]] = {
    "python": lambda x: x,
    "fraction": Fraction,
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
    "longdouble": np.longdouble,
    "array": np.array,
    "array-float32": np.float32,
    "torch": lambda x: peer("torch").tensor(x),
    "torch-bfloat16": lambda x: peer("torch").tensor(x, dtype=peer("torch").bfloat16),
    "torch-parameter": lambda x: peer("torch").nn.Parameter(peer("torch").tensor(float(x))),
    "jax": lambda x: peer("jax").numpy.asarray(x, float),
    "jax-bfloat16": lambda x: peer("jax").numpy.asarray(x, "bfloat16"),
    "bfloat16": lambda x: peer("ml_dtypes").bfloat16(x),
}
WHOLE: dict[str, Callable[[int], Any]] = {
    "python": lambda n: n,
    "int64": np.int64,
    "uint8": np.uint8,
    "array": np.array,
    "torch": lambda n: peer("torch").tensor(n),
    "jax": lambda n: peer("jax").numpy.asarray(n, int),
}


def kinds(table: Iterable[str]) -> list[Any]:
    """The rows of a table by name; those of other libraries carry the mark."""
    marks = {True: [pytest.mark.peer], False: []}
    return [pytest.param(kind, marks=marks[kind.startswith(("torch", "jax", "meta"))]) for kind in table]


by_kind = pytest.mark.parametrize("kind", kinds(KINDS))
by_whole = pytest.mark.parametrize("kind", kinds(WHOLE))


def arrays() -> list[np.ndarray]:
    return [np.array([1.0, -2.0, 3.0], np.float32)]


def arrays_after(opt: fu.Optimizer) -> list[np.ndarray]:
    return [item.array for item in opt.stepper.items]


def step(**options: Any) -> fu.Optimizer:
    opt = fu.SGD(arrays(), **options)
    opt.step([np.array([0.5, 2.0, -8.0], np.float32)])
    return opt


PLACES: dict[str, Callable[[Any], Any]] = {
    "lr": lambda x: step(lr=x),
    "schedule": lambda x: step(lr=lambda t: x),
    "group": lambda x: step(lr=1.0, groups=[{"params": "0", "lr_scale": x}]),
    "clip_value": lambda x: step(lr=1.0, clip_value=x),
    "clip_norm": lambda x: step(lr=1.0, clip_norm=x),
    "clip_tensor_norm": lambda x: step(lr=1.0, clip_tensor_norm=x),
    "clip_unit_norm": lambda x: step(lr=1.0, clip_unit_norm=x),
    "lookahead": lambda x: step(lr=1.0, lookahead=(1, x)),
    "ema_decay": lambda x: step(lr=1.0, ema_decay=x),
}


@pytest.mark.parametrize("place", PLACES)
@by_kind
def test_a_number_may_come_from_anywhere(place: str, kind: str) -> None:
    taken, plain = (PLACES[place](make(0.25)) for make in (KINDS[kind], float))
    assert_same_bits(
        [item.array for item in taken.stepper.items], [item.array for item in plain.stepper.items], "params"
    )
    assert_same_bits(taken.ema or [], plain.ema or [], "ema")


@by_kind
def test_a_loss_scale_may_come_from_anywhere(kind: str) -> None:
    g = [np.ones(3, np.float32)]
    taken, plain = arrays(), arrays()
    fu.SGD(taken, lr=1.0).step(g, loss_scale=KINDS[kind](0.25))
    fu.SGD(plain, lr=1.0).step(g, loss_scale=0.25)
    assert_same_bits(taken, plain, "params")


@by_whole
def test_an_integer_may_come_from_anywhere(kind: str) -> None:
    two = WHOLE[kind](2)
    assert_same_bits(
        *[[item.array for item in step(lr=1.0, lookahead=(n, 0.5)).stepper.items] for n in (two, 2)], "lookahead"
    )
    fu.set_num_threads(two)
    assert fu.get_num_threads() == 2
    opt = step()
    opt.start_at(two)
    assert opt.step_count == 1
    assert fu.groups.gradual_unfreezing(["0", "1"], two)[0]["frozen_until"] == 2


@pytest.mark.peer
def test_optax_schedules_are_schedules() -> None:
    optax = peer("optax")
    taken, plain = arrays(), arrays()
    schedule = optax.cosine_decay_schedule(0.1, 10)
    opts = [fu.SGD(taken, lr=schedule), fu.SGD(plain, lr=lambda t: float(schedule(t)))]
    for _ in range(5):
        for opt in opts:
            opt.step([np.ones(3, np.float32)])
    assert_same_bits(taken, plain, "params")


NOT_REAL: dict[str, Callable[[], Any]] = {
    "bool": lambda: True,
    "bool_": lambda: np.bool_(True),
    "array-of-bool": lambda: np.array(True),
    "torch-bool": lambda: peer("torch").tensor(True),
    "jax-bool": lambda: peer("jax").numpy.asarray(True),
    "text": lambda: "0.5",
    "array-of-text": lambda: np.array("0.5"),
    "bytes": lambda: b"1",
    "none": lambda: None,
    "complex": lambda: 1j,
    "complex64": lambda: np.complex64(1),
    "one-element": lambda: np.array([0.5]),
    "torch-one-element": lambda: peer("torch").tensor([0.5]),
    "masked": lambda: np.ma.masked,
    "datetime": lambda: np.datetime64("2020"),
    "meta": lambda: peer("torch").tensor(0.5, device="meta"),
    "list": lambda: [0.5],
}
NOT_WHOLE: dict[str, Callable[[], Any]] = {
    "float": lambda: 2.0,
    "float64": lambda: np.float64(2),
    "array-of-float": lambda: np.array(2.0),
    "torch-float": lambda: peer("torch").tensor(2.0),
}


@pytest.mark.parametrize("kind", kinds(NOT_REAL))
def test_what_is_no_number_is_refused(kind: str) -> None:
    value = NOT_REAL[kind]()
    for check, words in ((real, "a finite number"), (integer, "an integer ≥ 1")):
        with pytest.raises(TypeError) as caught:
            check(Place("adam", "x"), value)
        assert str(caught.value) == f"[adam] x: expected {words}, received {value!r}"


@pytest.mark.parametrize("kind", kinds(NOT_WHOLE))
def test_what_is_no_integer_is_refused(kind: str) -> None:
    value = NOT_WHOLE[kind]()
    with pytest.raises(TypeError, match=r"\[adam\] x: expected an integer ≥ 1, received"):
        integer(Place("adam", "x"), value)
    assert real(Place("adam", "x"), value) == 2.0


# Each interval with its words, numbers inside, and numbers outside.
INTERVALS: list[tuple[Interval, str, list[float], list[float]]] = [
    (FINITE, "a finite number", [-1e300, 0.0, 7.0], [math.inf, -math.inf]),
    (POSITIVE, "a finite number > 0", [5e-324, 1e300], [0.0, -0.0, -1.0, math.inf]),
    (NON_NEGATIVE, "a finite number ≥ 0", [0.0, -0.0, 1e300], [-5e-324, math.inf]),
    (LIMIT, "a number ≥ 0", [0.0, math.inf], [-1.0, -math.inf]),
    (BELOW_ONE, "a number in [0, 1)", [0.0, 1 - 2**-53], [1.0, -0.1, math.inf]),
    (FRACTION, "a number in [0, 1]", [0.0, 1.0], [1.0 + 2**-52, -0.1]),
    (SHARE, "a number in (0, 1]", [5e-324, 1.0], [0.0, 1.1]),
]


@pytest.mark.parametrize(("interval", "words", "inside", "outside"), INTERVALS, ids=[row[1] for row in INTERVALS])
def test_intervals(interval: Interval, words: str, inside: list[float], outside: list[float]) -> None:
    place = Place("adam", "x")
    assert [real(place, x, interval) for x in inside] == inside
    for value in [*outside, math.nan, 10**400, -(10**400), np.float32(np.nan)]:
        with pytest.raises(ValueError, match=re.escape(f"[adam] x: expected {words}, received {value!r}")):
            real(place, value, interval)


def test_integers_are_exact() -> None:
    place = Place("adam", "x")
    assert integer(place, np.int64(2**62 - 1), Interval(1, 2**62 - 1)) == 2**62 - 1
    for value in (2**62, 10**400, 0):
        with pytest.raises(ValueError, match=r"\[adam\] x: expected an integer in \[1, 4.61169e\+18\], received"):
            integer(place, value, Interval(1, 2**62 - 1))
    with pytest.raises(ValueError, match="expected an integer ≥ 1, received 0"):
        integer(place, 0, COUNT)


# What was taken in silence, or refused for its type alone.
CONVERTED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "infinite loss scale": (
        lambda: step().step([np.ones(3, np.float32)], loss_scale=np.float32("inf")),
        ValueError,
        r"\[sgd\] loss_scale: expected a finite number > 0, received",
    ),
    "no loss scale": (
        lambda: step().step([np.ones(3, np.float32)], loss_scale=np.float32(0)),
        ValueError,
        r"\[sgd\] loss_scale: expected a finite number > 0, received",
    ),
    "no limit": (lambda: step(clip_norm=np.float32(0)), ValueError, r"\[sgd\] clip_norm: expected a finite number > 0"),
    "true threads": (lambda: fu.set_num_threads(True), TypeError, r"\[fastupdate\] threads: expected an integer ≥ 1"),
    "no threads": (lambda: fu.set_num_threads(0), ValueError, r"\[fastupdate\] threads: expected an integer ≥ 1"),
}


@pytest.mark.parametrize(("call", "error", "message"), CONVERTED.values(), ids=CONVERTED)
def test_numbers_are_checked_after_they_are_converted(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


NARROW, WIDE = np.float32, np.float64
UNHELD: dict[str, tuple[dict[str, Any], str, str]] = {
    "lr": ({"lr": 1e39}, "lr", "a number that float32 can hold, received 1e+39"),
    "scaled lr": (
        {"lr": 1e30, "groups": [{"params": "*", "lr_scale": 1e9}]},
        "lr",
        "a number that float32 can hold, received 1e+39",
    ),
    "weight_decay": ({"weight_decay": 1e39}, "weight_decay", "a number that float32 can hold, received 1e+39"),
    "decay of a step": (
        {"lr": 1e20, "weight_decay": 1e20},
        "weight_decay",
        "a number that float32 can hold, received 1e+20 with a learning rate of 1e+20",
    ),
    "l1 of a step": (
        {"lr": 1e20, "l1": 1e20, "l1_mode": "proximal"},
        "l1",
        "a number that float32 can hold, received 1e+20 with a learning rate of 1e+20",
    ),
    "eps": ({"eps": 1e-50}, "eps", "0 or a number that float32 does not take for 0, received 1e-50"),
    "eps at the edge": ({"eps": 2.0**-150}, "eps", "0 or a number that float32 does not take for 0, received 7.0"),
}


@pytest.mark.parametrize(("options", "name", "words"), UNHELD.values(), ids=UNHELD)
@by_backend
def test_what_the_type_cannot_hold_is_refused_by_name(
    backend: str, options: dict[str, Any], name: str, words: str
) -> None:
    mixed = [np.ones(3, WIDE), np.ones(3, NARROW)]
    with pytest.raises(ValueError, match=re.escape(f"[adam] {name}: expected {words}")):
        fu.Adam(mixed, backend=backend, **options)
    opt = fu.Adam([np.ones(3, WIDE)], backend=backend, **options)  # this type holds it
    opt.step([np.zeros(3, WIDE)])
    assert np.isfinite(opt.stepper.items[0].array).all()


@by_backend
def test_a_schedule_beyond_the_type_is_refused_in_its_step(backend: str) -> None:
    opt = fu.Adam([np.ones(3, NARROW)], lr=lambda t: [0.1, 1e39][t], backend=backend)
    opt.step([np.ones(3, NARROW)])
    before = fingerprint(opt)
    with pytest.raises(ValueError, match=r"\[adam\] lr: expected a number that float32 can hold, received 1e\+39"):
        opt.step([np.ones(3, NARROW)])
    assert fingerprint(opt) == before


@by_backend
def test_what_rounds_to_the_right_thing_is_taken(backend: str) -> None:
    """The smallest ε, no ε, a vanishing rate, and a limit beyond all gradients."""
    for options in ({"eps": 2.0**-149}, {"eps": 0.0}, {"lr": 1e-60}, {"clip_value": 1e60}):
        p = [np.ones(3, NARROW)]
        fu.Adam(p, backend=backend, **options).step([np.ones(3, NARROW)])
        assert np.isfinite(p[0]).all()


@pytest.mark.parametrize(
    ("dtype", "scale", "right"),
    [
        (NARROW, 2.0**150, False), (NARROW, 2.0**-130, False), (NARROW, 2.0**127, False), (NARROW, 2.0**126, True),
        (NARROW, 2.0**-127, True), (WIDE, 2.0**150, True), (WIDE, 2.0**-130, True), (WIDE, 1e-320, False),
        (WIDE, 1e308, False),
    ],
)  # fmt: skip
@by_backend
def test_loss_scales_that_the_type_can_invert(backend: str, dtype: Any, scale: float, right: bool) -> None:
    p = [np.zeros(3, dtype)]
    opt = fu.SGD(p, lr=1.0, backend=backend)
    g = [np.full(3, 1.5 * min(max(scale, 2.0**-120), 2.0**120), dtype)]
    if right:
        opt.step(g, loss_scale=scale)
        np.testing.assert_array_equal(p[0], -(g[0] / dtype(scale)))
        return
    before = fingerprint(opt)
    with pytest.raises(ValueError, match=rf"\[sgd\] loss_scale: expected a number whose inverse {dtype.__name__} can"):
        opt.step(g, loss_scale=scale)
    assert fingerprint(opt) == before


@by_backend
def test_micro_batches_count_in_what_the_type_can_invert(backend: str) -> None:
    opt = fu.SGD([np.zeros(3, NARROW)], backend=backend)
    for _ in range(2):
        opt.accumulate([np.ones(3, NARROW)])
    with pytest.raises(ValueError, match=r"loss_scale: .* float32 can hold, with micro-batches that weigh 2"):
        opt.step(loss_scale=2.0**126)
    opt.step(loss_scale=2.0**125)
