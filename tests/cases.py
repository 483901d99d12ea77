"""The tables that tests are made of: rules with their hyperparameters, backends, instruction sets, sizes, data.

The rules with a row in HYPERS are those that the frame is tested with: between them they have every kind of state, flag
and schedule. A rule of its own has the rows of tests/golden as cases, or generic ones made from its record, so that it
is tested as soon as it exists.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import golden
import numpy as np
import pytest

from fastupdate import rules
from fastupdate.arrays.numbers import Interval
from fastupdate.engines import choose, records
from fastupdate.optimizer import Optimizer

# Options that between them take every stage of a step.
MIXED_OPTIONS: dict[str, dict[str, Any]] = {
    "stages": {
        "clip_tensor_norm": 5.0, "clip_value": 0.8, "l1": 1e-3, "ema_decay": 0.9, "shadow": "bfloat16",
        "zero_grads": True, "lookahead": (2, 0.6), "monitor": True,
    },
    "units": {
        "clip_unit_norm": 0.05, "l1": 1e-3, "l1_mode": "proximal", "shadow": "float16", "maximize": True,
        "decay": "independent", "monitor": True,
    },
}  # fmt: skip

# Those whose stages need sums of their own, which a GPU's engine has for rules alone.
SUM_OPTIONS: dict[str, dict[str, Any]] = {
    "sums": {
        "centralize": True, "optimism": 0.3, "optimism_norm": 5.0, "cautious": "mean", "decay": "cautious",
        "clip_value": (-5.0, 3.0), "monitor": True,
    },
    "hyperball": {"trust_ratio": True, "keep_norm": True, "decay": "decoupled", "monitor": True},
}  # fmt: skip

# Every case decays weights: a default of zero would hide mistakes in the decay.
HYPERS: dict[str, dict[str, dict[str, Any]]] = {
    "sgd": {
        "plain": {"lr": 0.05, "weight_decay": 0.03},
        "momentum": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.03},
        "dampened": {"lr": 0.05, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.03},
        "at once": {"lr": 0.05, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.03, "dampen_first": True},
        "nesterov": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.03, "nesterov": True},
    },
    "momentum": {  # Keras keeps its learning rate in float32: a power of two is the same in both types
        "classical": {"lr": 2**-6, "beta": 0.8, "weight_decay": 0.03},
        "twice": {"lr": 2**-6, "beta": 0.8, "weight_decay": 0.03, "nesterov": True, "twice_ahead": True},
        "nesterov": {"lr": 2**-6, "beta": 0.8, "weight_decay": 0.03, "nesterov": True},
    },
    "rmsprop": {
        "plain": {"lr": 0.01, "alpha": 0.9, "eps": 1e-6, "weight_decay": 0.03},
        "centered": {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.03, "centered": True},
        "momentum": {"lr": 0.01, "alpha": 0.9, "eps": 1e-6, "weight_decay": 0.03, "momentum": 0.7},
        "inside": {"lr": 2**-6, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.03, "eps_inside": True},
        "inside_both": {
            "lr": 2**-6,
            "alpha": 0.9,
            "eps": 1e-3,
            "weight_decay": 0.03,
            "momentum": 0.7,
            "centered": True,
            "eps_inside": True,
        },
        "in_buffer": {
            "lr": 2**-6,
            "alpha": 0.9,
            "eps": 1e-3,
            "weight_decay": 0.03,
            "momentum": 0.7,
            "lr_in_buffer": True,
        },
        "both": {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.03, "momentum": 0.7, "centered": True},
    },
    "adam": {
        "plain": {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.03},
        "corrected": {"lr": 0.01, "eps": 1e-6, "weight_decay": 0.03, "amsgrad": True, "corrected_max": True},
        "uncorrected": {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.03, "uncorrected": True},
        "eps_hat": {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-4, "weight_decay": 0.03, "eps_hat": True},
        "amsgrad": {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.03, "amsgrad": True},
    },
    "adamw": {
        "plain": {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.3},
        "corrected": {"lr": 0.01, "eps": 1e-6, "weight_decay": 0.3, "amsgrad": True, "corrected_max": True},
        "uncorrected": {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.3, "uncorrected": True},
        "eps_hat": {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-4, "weight_decay": 0.3, "eps_hat": True},
        "amsgrad": {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.3, "amsgrad": True},
    },
}


# Rules whose step depends on sums: tests/test_phases.py.
PHASED_HYPERS: dict[str, dict[str, dict[str, Any]]] = {
    "lamb": {
        "plain": {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.03},
        "clipped": {"lr": 0.01, "eps": 1e-6, "weight_decay": 0.03, "trust_clip": True, "adapt_decayed": True},
    },
    "adafactor": {
        "plain": {"lr": 0.05, "weight_decay": 0.03},
        "slow": {"lr": 0.5, "d": 0.3, "beta2_decay": -0.5},
        "momentum": {"lr": 0.05, "beta1": 0.8, "weight_decay": 0.03, "scaled_decay": True, "unfactored": True},
    },
    "prodigy": {
        "plain": {"weight_decay": 0.03, "d0": 1e-2},
        "warm": {"lr": 0.5, "d0": 1e-2, "use_bias_correction": True, "safeguard_warmup": True, "weight_decay": 0.03},
    },
    "muon": {
        "plain": {"lr": 0.02, "momentum": 0.9},
        "inputs": {"lr": 0.02, "momentum": 0.9, "rows_are_inputs": True},
        "nesterov": {"lr": 0.02, "momentum": 0.9, "nesterov": True, "match_rms_adamw": True},
        "corrected": {"lr": 0.02, "momentum": 0.9, "nesterov": True, "corrected": True, "quintic": True},
    },
}


@dataclass(frozen=True)
class Case:
    """A rule under one set of hyperparameters."""

    rule: str
    name: str
    kwargs: dict[str, Any] = field(hash=False)

    def __str__(self) -> str:
        return f"{self.rule}-{self.name}"

    def make(self, params: Any, **options: Any) -> Optimizer:
        return rules.get(self.rule)(params, **{**self.kwargs, **options})


def switching_on(interval: Interval) -> float:
    """A number of an interval that is not 0."""
    return next(x for x in (0.5, 1.0, -0.5) if x in interval)


def generic_cases(cls: type[Optimizer]) -> dict[str, dict[str, Any]]:
    """Cases for a rule that has no row: its defaults with some decay, and each of its flags switched on."""
    arguments = inspect.signature(cls.__init__).parameters
    base = {"weight_decay": 0.03} if "weight_decay" in arguments else {}
    hypers = {hyper: switching_on(cls.rule.hypers[hyper]) for hyper in cls.rule.flag_hypers.values()}
    cases, on = {"plain": base}, {}
    for flag in cls.rule.flags:
        hyper = cls.rule.flag_hypers.get(flag)
        if hyper is None:
            on[flag] = True  # beside those before it, which it may need
        cases[flag] = {**base, **hypers, **on} if hyper is None else {**base, hyper: hypers[hyper]}
    return cases


def unscheduled(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value(0) if callable(value) else value for name, value in arguments.items()}


def cases_of(name: str) -> list[Case]:
    """The cases of a rule; of its golden rows, one for each set of flags, with the first value of what is scheduled."""
    table = (HYPERS | PHASED_HYPERS).get(name)
    if table is None:
        make = rules.get(name)
        by_flags: dict[str, str] = {}
        rows = {key: unscheduled(row.arguments) for key, row in golden.rows(name).items()} or generic_cases(make)
        for key, arguments in rows.items():
            by_flags.setdefault(str(make([np.zeros((1, 1))], **arguments).stepper.flags), key)
        table = {key: rows[key] for key in by_flags.values()}
    return [Case(name, key, kwargs) for key, kwargs in table.items()]


OURS_ALONE = {  # arguments that torch has not; beside those who have them are golden rows
    "corrected_max", "dampen_first", "eps_hat", "eps_inside", "eps_outside", "lr_in_buffer", "one_late",
    "threshold", "twice_ahead", "uncorrected",
}  # fmt: skip
RULE_NAMES = rules.names()
ELEMENTWISE = [name for name, rule in rules.every().items() if not rule.phases]
EVERY_PHASED = [name for name in RULE_NAMES if name not in ELEMENTWISE]
EVERY_CASE = [case for name in ELEMENTWISE for case in cases_of(name)]
EVERY_PHASED_CASE = [case for name in EVERY_PHASED for case in cases_of(name)]
# What the frame is tested with: what holds for these rules in combination with anything holds for all.
RULES, PHASED = sorted(HYPERS), sorted(PHASED_HYPERS)  # the latter in tests/test_phases.py
PHASED_CASES = [case for case in EVERY_PHASED_CASE if case.rule in PHASED]
CASES = [case for case in EVERY_CASE if case.rule in RULES]
FIRST_CASES = [cases_of(name)[-1] for name in RULES]  # one of each rule, the one with most flags
DTYPES = [np.float32, np.float64]


def in_sample(case: Case) -> bool:
    return case.rule in HYPERS or case.rule in PHASED_HYPERS


# FASTUPDATE_TEST_PRODUCT=1, as scripts/nightly.py sets it: every rule in all its cases and types on every engine.
PRODUCT = bool(os.environ.get("FASTUPDATE_TEST_PRODUCT"))
NIGHTLY_DTYPES = DTYPES if PRODUCT else DTYPES[:1]


@cache
def stands_for_its_rule(case: Case) -> bool:
    """Whether it is of the sample, or the case of its rule that has most flags; each night all cases do."""
    return PRODUCT or in_sample(case) or case == cases_of(case.rule)[-1]


def in_one_type(case: Case, dtype: Any) -> bool:
    """Of the cases of a rule one in each type, that with most flags in float32; each night all in both."""
    return PRODUCT or case == cases_of(case.rule)[0 if dtype is np.float64 else -1]


def of_both(case: Case, options: str) -> bool:
    """Whether Numba compiles it for both types every day: of each rule of the sample the case with most flags."""
    return in_sample(case) and case == cases_of(case.rule)[-1] and options == "plain"


def by_name(value: Any) -> str:
    return getattr(value, "__name__", None) or str(value)


by_case = pytest.mark.parametrize("case", CASES, ids=str)
by_rule = pytest.mark.parametrize("case", FIRST_CASES, ids=str)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


# FASTUPDATE_TEST_BACKENDS narrows the backends, for a build that only has one (sanitizers, mutants).
WANTED = os.environ.get("FASTUPDATE_TEST_BACKENDS", "native,numba").split(",")


@cache
def isas() -> list[str]:
    """The instruction sets of this machine, in rising order; none without the native module."""
    if choose.native_problem():
        return []
    from fastupdate import _core

    return _core.available_isas()


class Engine(NamedTuple):
    """What runs a plan: a backend, and for the native one an instruction set."""

    backend: str
    isa: str | None

    def __str__(self) -> str:
        return f"{self.backend}-{self.isa}" if self.isa else self.backend

    def select(self) -> str:
        """Makes the next optimizers run on it, given the backend's name that this returns."""
        if self.isa:
            from fastupdate import _core

            _core.select_isa(self.isa)
        return self.backend


def _param(value: Any, backend: str) -> Any:
    """`value` as a test parameter that is skipped, or in CI fails, where the backend is missing."""
    problem = choose.PROBLEMS[backend]()
    if problem and os.environ.get("CI"):
        raise RuntimeError(f"in CI every backend must be there; {backend}: {problem}")
    marks = [pytest.mark.skip(reason=f"no backend {backend}: {problem}")] if problem else []
    return pytest.param(value, id=str(value), marks=marks)


BACKENDS = [_param(name, name) for name in WANTED]
ENGINES = [
    _param(Engine(name, isa), name) for name in WANTED for isa in (isas() or [None] if name == "native" else [None])
]
BEST = [engine for engine in ENGINES if engine.values[0].isa in (None, *isas()[-1:])]


def every_run(rows: Iterable[tuple[Case, str, Any]]) -> pytest.MarkDecorator:
    """Cases, options and engines × types, as arguments of a test.

    Numba compiles each loop for half a second. Of every rule beside the sample it does so in one case and in float32,
    where a number of another type would show, and the sample under options; in the others each night.
    """
    runs = [
        pytest.param(case, options, dtype, *e.values, id=f"{case}-{options}-{e.id}-{np.dtype(dtype)}", marks=e.marks)
        for case, options, e in rows
        if e.values[0].backend != "numba" or stands_for_its_rule(case)
        for dtype in (NIGHTLY_DTYPES if e.values[0].backend == "numba" and not of_both(case, options) else DTYPES)
    ]
    return pytest.mark.parametrize(("case", "options", "dtype", "engine"), runs)


by_backend = pytest.mark.parametrize("backend", BACKENDS)
by_engine = pytest.mark.parametrize("engine", ENGINES)

SIMD_WIDTH = 16  # float32 elements of the widest register
TAILS = [*range(4 * SIMD_WIDTH + 2)]
PARALLEL = 200_003  # enough work to wake every thread, as test_22_threads_are_used asserts
SIZES = [*TAILS, 127, 128, 129, 1023, 1024, 1025, 2047, 2049, 100003]


def random_arrays(seed: int, sizes: list[int], dtype: Any, spread: float = 2.0) -> list[np.ndarray]:
    """Arrays of both signs over several orders of magnitude; none of them is zero anywhere."""
    rng = np.random.default_rng(seed)
    arrays = []
    for n in sizes:
        values = rng.choice([-1.0, 1.0], n) * np.exp(spread * rng.standard_normal(n))
        arrays.append(values.astype(dtype))
    return arrays


def moderate_arrays(seed: int, sizes: list[int], dtype: Any) -> list[np.ndarray]:
    """Arrays of both signs and magnitudes in [0.5, 8): g + λw never cancels, so rounding is all that differs."""
    rng = np.random.default_rng(seed)
    return [(rng.choice([-1.0, 1.0], n) * 2.0 ** rng.uniform(-1, 3, n)).astype(dtype) for n in sizes]


def gradients(seed: int, steps: int, sizes: list[int], dtype: Any) -> list[list[np.ndarray]]:
    """The gradients of several steps."""
    return [random_arrays(seed + 1 + k, sizes, dtype) for k in range(steps)]


def same_bits(actual: Any, expected: Any) -> str | None:
    """None if two arrays have the same bits (any NaN equals any NaN), else where they differ."""
    a, b = np.ascontiguousarray(actual), np.ascontiguousarray(expected)
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"{a.dtype}{a.shape} is not {b.dtype}{b.shape}"
    if a.tobytes() == b.tobytes():
        return None
    if a.dtype == np.uint16:  # bfloat16 as bits
        a, b = ((x.astype(np.uint32) << 16).view(np.float32) for x in (a, b))
    bits = f"u{a.itemsize}"
    differ = (a.reshape(-1).view(bits) != b.reshape(-1).view(bits)) & ~(np.isnan(a) & np.isnan(b)).reshape(-1)
    if not differ.any():
        return None
    k = int(np.flatnonzero(differ)[0])
    return f"{differ.sum()} of {a.size} differ, first {k}: {a.reshape(-1)[k]!r} is not {b.reshape(-1)[k]!r}"


def assert_same_bits(actual: Any, expected: Any, what: str) -> None:
    """Arrays, or equally long lists of arrays."""
    if isinstance(actual, (list, tuple)):
        assert len(actual) == len(expected), what
        for k, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_same_bits(a, b, f"{what}[{k}]")
        return
    difference = same_bits(actual, expected)
    assert difference is None, f"{what}: {difference}"


def arrays_of(opt: Optimizer) -> dict[str, list[np.ndarray]]:
    """Everything that an optimizer updates, by kind."""
    items = opt.stepper.items
    kept = {f"state {name}": [item.states[name] for item in items] for name in items[0].states}
    extra = {kind: [item.slots.get(kind) for item in items] for kind in records.ROLES}
    present = {kind: [a for a in arrays if a is not None] for kind, arrays in extra.items()}
    return {"params": [item.array for item in items], **kept, **present}


def exactly(x: Any) -> Any:
    """A state with the bytes of its arrays, to be compared."""
    if isinstance(x, dict):
        return {key: exactly(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [exactly(value) for value in x]
    if type(x).__module__ == "torch":
        flat = x.detach().reshape(-1)
        return str(x.dtype), tuple(x.shape), bytes(flat.untyped_storage())
    return (x.dtype.str, x.shape, x.tobytes()) if isinstance(x, np.ndarray) else x


def fingerprint(opt: Optimizer, *others: Any) -> str:
    """A hash of all that a failed call must leave as it was: arrays, gradients, step counts, hyperparameters."""
    digest = hashlib.sha256()
    opt.stepper.plan.keep_times()
    for kind, arrays in arrays_of(opt).items():
        for array in arrays:
            digest.update(kind.encode() + str((array.shape, array.dtype)).encode() + array.tobytes())
    for other in others:
        if isinstance(other, np.ndarray):
            digest.update(other.tobytes())
    digest.update(opt.stepper.clock[:2].tobytes() + opt.stepper.plan.groups["t"].tobytes())
    digest.update(repr([(item.t, item.frozen) for item in opt.stepper.items]).encode())
    digest.update(repr([dict(group) for group in opt.groups]).encode())
    return digest.hexdigest()
