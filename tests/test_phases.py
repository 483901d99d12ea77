"""Rules whose step depends on sums: the same bytes everywhere, those of plain NumPy; and what their peers do."""

from __future__ import annotations

import copy
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cases import (
    BEST,
    DTYPES,
    ENGINES,
    EVERY_PHASED_CASE,
    NIGHTLY_DTYPES,
    PHASED,
    PHASED_CASES,
    Case,
    arrays_of,
    assert_same_bits,
    by_dtype,
    by_name,
    cases_of,
    every_run,
    exactly,
    in_sample,
    isas,
)
from device_arrays import FakeArray
from peers import peer
from reference import fold, ordered_sum

import fastupdate as fu
from fastupdate import rules
from fastupdate.arrays import device
from fastupdate.rules.adafactor import Adafactor
from fastupdate.rules.extent import shape_of
from fastupdate.rules.lamb import Lamb
from fastupdate.rules.muon import Muon
from fastupdate.rules.prodigy import Prodigy
from fastupdate.rules.rule import NON_NEGATIVE, Factor, Hyper, State, Sum, rule_of, scalars
from fastupdate.step import extents
from fastupdate.step.transaction import in_turn

STEPS = 4
CASES = PHASED_CASES
FIRST = [cases_of(rule)[0] for rule in PHASED]
MATRICES = [(37, 53), (3, 2100), (1030, 3), (1, 1), (33, 32), (32, 1025)]  # about chunks of rows, lanes and blocks
SHAPES = [*MATRICES, (), (1,), (0, 5), (31,), (1024,), (1025,), (5000,), (4, 3, 3), (70, 40, 5), (2, 2, 65, 2)]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"clip_value": 0.5, "l1": 1e-3, "zero_grads": True, "ema_decay": 0.9},
    "decayed": {"decay": "independent", "weight_decay": 0.01, "clip_norm": 1.0, "monitor": True, "maximize": True},
    "masked": {"optimism": 0.3, "cautious": True, "decay": "cautious", "weight_decay": 0.01, "monitor": True},
    "sums": {"centralize": True, "optimism": 0.3, "optimism_norm": 5.0, "cautious": "mean", "monitor": True},
    "units": {"clip_unit_norm": 0.1, "l1": 1e-3, "l1_mode": "proximal", "shadow": "bfloat16", "lookahead": (2, 0.6)},
}


by_case = pytest.mark.parametrize("case", CASES, ids=str)
# The sample under all options, every other rule under none; on older instruction sets the sample alone, under none.
EVERY = [(c, o) for c in EVERY_PHASED_CASE for o in OPTIONS if c in CASES or o == "plain"]
RUNS = [(c, o, engine) for c, o in EVERY for engine in (ENGINES if c in CASES and o == "plain" else BEST)]
# The stand-in's arrays cannot be multiplied: tests/gpu does that. Stages have no sums of their own on a GPU, and are
# refused by name (test_cuda_steps.py).
ON_GPUS = [
    (c, o, t)
    for c, o in EVERY
    if rules.get(c.rule).rule.matrix is None and o != "sums"
    for t in (DTYPES if c in CASES else NIGHTLY_DTYPES)
]
by_first = pytest.mark.parametrize("case", FIRST, ids=str)
by_options = pytest.mark.parametrize("options", OPTIONS)


def shapes_for(case: Case) -> list[tuple[int, ...]]:
    return SHAPES if rules.get(case.rule).rule.matrix is None else MATRICES


@cache
def problem(case: Case, dtype: Any) -> list[list[np.ndarray]]:
    """Parameters, and the targets that gradients lead to."""
    rng = np.random.default_rng(5)
    return [[np.asarray(rng.standard_normal(shape), dtype) for shape in shapes_for(case)] for _ in range(2)]


def gradients(params: list[np.ndarray], targets: list[np.ndarray]) -> list[np.ndarray]:
    """They agree from step to step, so that what rules estimate grows."""
    return [np.asarray(p - t, p.dtype) for p, t in zip(params, targets, strict=True)]


def run(case: Case, dtype: Any, options: str, backend: str, threads: int) -> dict[str, Any]:
    """What some steps leave behind, and what the last one reports."""
    start, targets = problem(case, dtype)
    params = [p.copy() for p in start]
    fu.set_num_threads(threads)
    opt = case.make(params, backend=backend, **OPTIONS[options])
    for _ in range(STEPS):
        grads = gradients(params, targets)
        report = opt.step(grads)
    left: dict[str, Any] = {**arrays_of(opt), "grads": grads}
    return (
        left
        if report.tensors is None
        else {**left, "statistics": [report.tensors[f] for f in ("grad_norm", "update_norm")]}
    )


@lru_cache(2)  # both types
def baseline(case: Case, dtype: Any, options: str) -> dict[str, Any]:
    return run(case, dtype, options, "native" if isas() else "numba", 1)


def kept_apart(left: dict[str, Any]) -> dict[str, Any]:
    return {kind: [np.array(device.on_host(a)) for a in arrays] for kind, arrays in left.items()}


@every_run(RUNS)
def test_every_engine_and_any_number_of_threads_leave_the_same_bytes(
    case: Case, dtype: Any, options: str, engine: Any
) -> None:
    expected = baseline(case, dtype, options)
    for threads in (1, 2, 3, 7) if engine.isa and case in CASES else (3,):
        actual = run(case, dtype, options, engine.select(), threads)
        for kind, arrays in expected.items():
            assert_same_bits(actual[kind], arrays, f"{kind}, {threads} threads")


@pytest.mark.parametrize(("case", "options", "dtype"), ON_GPUS, ids=by_name)
def test_the_kernels_of_gpus_leave_the_same_bytes(case: Case, dtype: Any, options: str, shim: Any) -> None:
    start, targets = problem(case, dtype)
    expected_params, params = [p.copy() for p in start], [FakeArray(p) for p in start]
    expected, opt = (case.make(p, **OPTIONS[options]) for p in (expected_params, params))
    for _ in range(STEPS):
        grads = gradients(expected_params, targets)
        opt.step([FakeArray(g) for g in grads])
        expected.step(grads)
    actual = kept_apart(arrays_of(opt))
    for kind, arrays in arrays_of(expected).items():
        assert_same_bits(actual[kind], arrays, kind)


# Rules of one's own with the text of the library's.


@fu.rule
class OwnLamb(Lamb):
    """The same as Lamb."""


@fu.rule
class OwnAdafactor(Adafactor):
    """The same as Adafactor."""


@fu.rule
class OwnProdigy(Prodigy):
    """The same as Prodigy."""


@fu.rule
class OwnMuon(Muon):
    """The same as Muon."""


@pytest.mark.parametrize(
    ("case", "options", "dtype"),
    [(c, o, d) for c in CASES for o in OPTIONS for d in DTYPES if d is np.float32 or c in FIRST],
    ids=by_name,
)
def test_rules_of_ones_own_leave_the_bytes_of_the_library_s(case: Case, options: str, dtype: Any) -> None:
    start, targets = problem(case, dtype)
    own = {"lamb": OwnLamb, "adafactor": OwnAdafactor, "prodigy": OwnProdigy, "muon": OwnMuon}[case.rule]
    whole, others = ([p.copy() for p in start] for _ in range(2))
    opts = case.make(whole, **OPTIONS[options]), own(others, **{**case.kwargs, **OPTIONS[options]})
    for _ in range(STEPS):
        for opt, params in zip(opts, (whole, others), strict=True):
            opt.step(gradients(params, targets))
    assert repr(opts[1]).count("native")
    expected, actual = map(arrays_of, opts)
    for kind, arrays in expected.items():
        assert_same_bits(actual[kind], arrays, kind)


# ---- plain NumPy ----------------------------------------------------------------------------------------------------


def units_of(p: np.ndarray) -> int:
    return len(p) if p.ndim > 1 else 1


def maxima_of(terms: np.ndarray, rows: int, columns: int) -> dict[str, Any]:
    """The largest terms of one tensor over each extent."""
    flat = terms.reshape(-1, rows, columns).astype(np.float64) if terms.size else np.zeros((0, rows, columns))
    axes = {"row": 2, "column": 1, "matrix": (1, 2), "tensor": (0, 1, 2)}
    return {extent: flat.max(axis, initial=0.0).reshape(-1) for extent, axis in axes.items()}


def sums_of(terms: np.ndarray, rows: int, columns: int, extents: Any, largest: bool) -> dict[str, Any]:
    """What terms of one tensor add up to over each extent, in the defined order; or the largest of them."""
    if largest:
        return maxima_of(terms, rows, columns)
    units = units_of(terms)
    flat = terms.reshape(-1, rows, columns).astype(np.float64) if terms.size else np.zeros((0, rows, columns))
    by_row = np.array([ordered_sum(row) for matrix in flat for row in matrix])
    by_rows = bool({"row", "column", "matrix", "unit"} & set(extents))
    chunks = [[np.add.accumulate(m[k : k + 32])[-1] for k in range(0, rows, 32)] for m in flat]
    return {
        "row": by_row,
        "column": np.array([fold(list(parts)) for chunk in chunks for parts in zip(*chunk, strict=True)]),
        "matrix": np.array([fold(by_row[k * rows : (k + 1) * rows]) for k in range(len(flat))]),
        "unit": np.array([fold(part) for part in by_row.reshape(units, -1)]) if units else by_row,
        "tensor": fold(by_row) if by_rows else ordered_sum(terms),
    }


class Plain:
    """A rule with phases on whole arrays, from its functions and the description of sums alone."""

    def __init__(self, case: Case, params: list[np.ndarray]) -> None:
        like = case.make([np.zeros((1, 1))])
        self.rule, self.flags = like.rule, like.rule.flag_tuple(like.stepper.flags)
        self.values = {k: v for k, v in like.groups[0].items() if k != "params"}
        self.params, self.t = params, 0
        self.states = [[self.start(name, p) for name in self.rule.states] for p in params]

    def start(self, name: str, p: np.ndarray) -> Any:
        extent, start = self.rule.extents[name], self.rule.starts[name]
        value = {"p": p, "ndim": p.ndim}.get(start, self.values.get(start, start))
        kind = p.dtype if extent == "element" else np.float64
        return np.full(shape_of(extent, p.shape), 0, kind) + np.asarray(value, kind)

    def spread(self, k: int) -> list[Any]:
        """The states of tensor k as functions of elements take them."""
        p = self.params[k]
        axes = {"row": -1, "column": -2, "matrix": (-2, -1)}
        shown = []
        for name, state in zip(self.rule.states, self.states[k], strict=True):
            extent = self.rule.extents[name]
            if extent in axes and p.ndim > 1:
                state = np.expand_dims(state, axes[extent])
            elif extent in axes and (p.ndim == 0 or extent != "row"):
                state = state.reshape(())
            elif extent == "unit" and p.ndim > 1:
                state = state.reshape(-1, *[1] * (p.ndim - 1))
            shown.append(state if extent == "element" else state.astype(p.dtype))
        return shown

    def settle(self, phase: Any, sums: list[Any], extent: str, k: int, n: float) -> None:
        own = [i for i, name in enumerate(self.rule.states) if self.rule.extents[name] == extent]
        s = self.rule.prepare(self.values, self.t)
        s = type(s)(*map(np.float64, s))
        given = [self.states[k][i].reshape(-1) for i in own]
        taken = [np.asarray(sums[j]).reshape(-1) for j in phase.summed(extent)]
        with np.errstate(all="ignore"):
            results = phase.settles[extent](self.flags, s, np.float64(n), *taken, *given)
        for i, result in zip(own, results if isinstance(results, tuple) else (results,), strict=True):
            self.states[k][i] = np.array(result).reshape(self.states[k][i].shape)

    def step(self, grads: list[np.ndarray]) -> None:
        self.t += 1
        for phase in self.rule.phases:
            totals = []
            for k, (p, g) in enumerate(zip(self.params, grads, strict=True)):
                rows, columns = (p.shape if p.ndim > 1 else (p.size, 1) if p.ndim else (1, 1))[-2:]
                sizes = {"row": columns, "column": rows, "matrix": rows * columns, "tensor": p.size}
                sizes["unit"] = p.size // max(units_of(p), 1)
                terms = self.measure(phase, k, g) if phase.measure else []
                kinds = [total.largest for total in phase.sums.values()]
                pairs = zip(terms, kinds, strict=True)
                summed = [sums_of(x, rows, columns, phase.settles, largest) for x, largest in pairs]
                totals.append([found["tensor"] for found in summed])
                for extent in phase.settles if p.size else ():
                    if extent != "list":
                        self.settle(phase, [found[extent] for found in summed], extent, k, sizes[extent])
            if "list" in phase.settles:
                sums = [fold(column) for column in zip(*totals, strict=True)]
                for k in range(len(self.params)):
                    self.settle(phase, sums, "list", k, sum(p.size for p in self.params))
        for k, (p, g) in enumerate(zip(self.params, grads, strict=True)):
            delta, *new = self.rule.update(self.flags, self.scalars(p), g, p, *self.spread(k))
            self.take(k, new)
            p += delta

    def scalars(self, p: np.ndarray) -> Any:
        s = self.rule.prepare(self.values, self.t)
        return type(s)(*map(p.dtype.type, s))

    def measure(self, phase: Any, k: int, g: np.ndarray) -> list[np.ndarray]:
        p = self.params[k]
        results = phase.measure(self.flags, self.scalars(p), g, p, *self.spread(k))
        results = results if isinstance(results, tuple) else (results,)
        self.take(k, results[len(phase.sums) :])
        if self.rule.matrix is not None and phase is self.rule.phases[0]:
            [name] = self.rule.matrix_states
            at = self.rule.states.index(name)
            self.states[k][at] = np.asarray(self.rule.matrix(self.flags, self.states[k][at]))
        return [np.broadcast_to(x, p.shape) for x in results[: len(phase.sums)]]

    def take(self, k: int, new: Any) -> None:
        element = [i for i, name in enumerate(self.rule.states) if self.rule.extents[name] == "element"]
        for i, state in zip(element, new, strict=True):
            self.states[k][i] = np.array(state, self.params[k].dtype)


@by_case
@by_dtype
def test_plain_numpy_leaves_the_same_bytes(case: Case, dtype: Any) -> None:
    start, targets = problem(case, dtype)
    params = [p.copy() for p in start]
    opt, plain = case.make(params), Plain(case, [p.copy() for p in start])
    for _ in range(STEPS):
        plain.step(gradients(plain.params, targets))
        opt.step(gradients(params, targets))
    assert_same_bits(params, plain.params, "params")
    for k, name in enumerate(opt.rule.states):
        if name not in opt.rule.passing:
            assert_same_bits(opt.state[name], [states[k] for states in plain.states], name)


# ---- what peers do --------------------------------------------------------------------------------------------------


def torch_peer(name: str, **kwargs: Any) -> Any:
    torch = peer("torch")

    def steps(start: list[np.ndarray], targets: list[np.ndarray], count: int) -> list[np.ndarray]:
        module = peer("prodigyopt") if name == "Prodigy" else torch.optim
        params = [torch.tensor(p) for p in start]
        opt = getattr(module, name)(params, **kwargs)
        for _ in range(count):
            for p, t in zip(params, targets, strict=True):
                p.grad = p.detach() - torch.tensor(t)
            opt.step()
        return [p.numpy() for p in params]

    return steps


def optax_lamb(**kwargs: Any) -> Any:
    jax, optax = peer("jax"), peer("optax")

    def steps(start: list[np.ndarray], targets: list[np.ndarray], count: int) -> list[np.ndarray]:
        with jax.enable_x64(True):
            transform = optax.lamb(**kwargs)
            params = [jax.numpy.asarray(p) for p in start]
            state = transform.init(params)
            for _ in range(count):
                grads = [p - jax.numpy.asarray(t) for p, t in zip(params, targets, strict=True)]
                updates, state = transform.update(grads, state, params)
                params = optax.apply_updates(params, updates)
            return [np.asarray(p) for p in params]

    return steps


PEERS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "lamb of optax": (optax_lamb, {"lr": 0.01, "weight_decay": 0.1}, {"learning_rate": 0.01, "weight_decay": 0.1}),
    "adafactor of torch": (
        lambda **kwargs: torch_peer("Adafactor", **kwargs),
        {"weight_decay": 0.1, "eps1": 2.0**-52},
        {"weight_decay": 0.1},
    ),
    "adafactor of torch, clipped": (
        lambda **kwargs: torch_peer("Adafactor", **kwargs),
        {"lr": 0.3, "d": 1.5, "beta2_decay": -0.5, "eps1": 1e-4, "eps2": 0.1},
        {"lr": 0.3, "d": 1.5, "beta2_decay": -0.5, "eps": (1e-4, 0.1)},
    ),
    **{
        f"prodigy of its authors, {' '.join(flags) or 'plain'}": (
            lambda **kwargs: torch_peer("Prodigy", **kwargs),
            {"weight_decay": 0.1, "d0": 1e-3, "d_coef": 2.0, "lr": 0.7, **dict.fromkeys(flags, True)},
            {"weight_decay": 0.1, "d0": 1e-3, "d_coef": 2.0, "lr": 0.7, **dict.fromkeys(flags, True)},
        )
        for flags in ((), ("use_bias_correction",), ("safeguard_warmup",))
    },
}


@pytest.mark.peer
@pytest.mark.parametrize("name", PEERS)
def test_peers_move_weights_as_we_do(name: str) -> None:
    make, ours, theirs = PEERS[name]
    case = Case(name.partition(" ")[0], name, ours)
    start, targets = (
        [a for a in arrays if a.size and a.ndim] for arrays in problem(cases_of(case.rule)[0], np.float64)
    )
    params = [p.copy() for p in start]
    opt = case.make(params)
    for _ in range(12):
        opt.step(gradients(params, targets))
    for p, q, before in zip(params, make(**theirs)(start, targets, 12), start, strict=True):
        np.testing.assert_allclose(p - before, q - before, rtol=1e-9, atol=1e-12 * np.abs(p - before).max())
    if case.rule == "prodigy":
        assert float(opt.state["d"][0]) > 2 * ours["d0"]  # the estimate has grown, or nothing was shown


@pytest.mark.peer
@pytest.mark.parametrize("adjust", [None, "match_rms_adamw"])
def test_muon_moves_weights_as_torch_does_up_to_the_rounding_of_bfloat16(adjust: str | None) -> None:
    start, targets = problem(cases_of("muon")[0], np.float32)
    params = [p.copy() for p in start]
    opt = fu.Muon(params, lr=0.02, momentum=0.9, nesterov=True, match_rms_adamw=adjust is not None)
    for _ in range(6):
        opt.step(gradients(params, targets))
    theirs = torch_peer("Muon", lr=0.02, momentum=0.9, nesterov=True, adjust_lr_fn=adjust)(start, targets, 6)
    for p, q, before in zip(params, theirs, start, strict=True):
        assert np.linalg.norm(p - q) <= 0.02 * np.linalg.norm(p - before)


# ---- a step in parts ------------------------------------------------------------------------------------------------

FIRST_HYPERS = {"lr": 0.01, "weight_decay": 0.03, "max_precondition_dim": 40}
ALL = [
    *(
        Case(name, "first", {key: x for key, x in FIRST_HYPERS.items() if key in rule.hypers})
        for name, rule in rules.every().items()
    ),
    *CASES,
]


@pytest.mark.parametrize(
    ("case", "backend"),
    [(case, backend) for case in ALL for backend in ("native", "numba") if backend == "native" or in_sample(case)],
    ids=str,
)
@by_options
def test_tensors_moved_one_by_one_in_backward_order_end_as_in_a_whole_step(
    case: Case, backend: str, options: str
) -> None:
    start, targets = problem(case, np.float32)
    whole, parts = ([p.copy() for p in start] for _ in range(2))
    has_decay = "weight_decay" in rules.get(case.rule).rule.hypers
    without = {"clip_norm", "clip_unit_norm", *([] if has_decay else ["weight_decay", "decay"])}
    settings = {k: v for k, v in OPTIONS[options].items() if k not in without}
    opts = [case.make(params, backend=backend, **settings) for params in (whole, parts)]
    for _ in range(STEPS):
        opts[0].step(gradients(whole, targets))
        stepper, grads = opts[1].stepper, gradients(parts, targets)
        opts[1].bind(grads)
        stepper.derive()
        stepper.engine.measure(-1.0 if "maximize" in settings else 1.0, 0)
        if stepper.rule.matrix is not None:
            in_turn(extents.multiply(stepper.rule, stepper.flags, stepper.plan))
        stepper.engine.measure_again()
        for k in reversed(range(len(parts))):
            stepper.engine.move(k, k + 1)
        stepper.engine.advance()
    expected, actual = (arrays_of(opt) for opt in opts)
    for kind, arrays in expected.items():
        assert_same_bits(actual[kind], arrays, kind)
    assert opts[1].step_count == STEPS


# ---- states that are not shaped like the parameter ------------------------------------------------------------------


@by_first
def test_a_run_that_was_saved_in_the_middle_goes_on_with_the_same_bytes(case: Case, tmp_path: Any) -> None:
    start, targets = problem(case, np.float32)
    params = [p.copy() for p in start]
    opt = case.make(params)
    for _ in range(2):
        opt.step(gradients(params, targets))
    opt.save(tmp_path / "run")
    resumed = [p.copy() for p in params]
    other = case.make(resumed)
    other.load_state_dict(fu.load(tmp_path / "run"))
    for _ in range(2):
        opt.step(gradients(params, targets))
        other.step(gradients(resumed, targets))
    assert exactly(opt.state_dict()) == exactly(other.state_dict())
    assert_same_bits(resumed, params, "params")


@by_first
def test_copies_are_apart_from_what_they_are_copies_of(case: Case) -> None:
    start, targets = problem(case, np.float32)
    opt = case.make([p.copy() for p in start])
    opt.step(gradients(start, targets))
    twin = copy.deepcopy(opt)
    before = exactly(twin.state_dict())
    opt.step(gradients(start, targets))
    assert exactly(twin.state_dict()) == before


@pytest.mark.parametrize("case", [c for c in FIRST if c.rule != "muon"], ids=str)
def test_functional_calls_take_states_of_any_extent(case: Case) -> None:
    start, targets = problem(case, np.float32)
    params, called = ([p.copy() for p in start] for _ in range(2))
    opt = case.make(params)
    states = {k: copy.deepcopy(v) for k, v in case.make(called).state.items()}
    for name in states:
        if opt.rule.extents[name] == "list":
            states[name] = [states[name][0]] * len(called)
    for step in range(1, STEPS + 1):
        opt.step(gradients(params, targets))
        getattr(fu.functional, case.rule)(
            called, gradients(called, targets), *states.values(), step=step, **case.kwargs
        )
    assert_same_bits(called, params, "params")


def test_a_state_of_the_list_is_one_array() -> None:
    opt = fu.Prodigy([np.ones((3, 2)), np.ones(5)])
    assert np.shares_memory(*opt.state["d"])
    assert opt.state["d"][0].shape == ()
    assert float(opt.state["d"][0]) == 1e-6


@by_first
@pytest.mark.parametrize("order", ["F", "strided"])
def test_parameters_that_lie_otherwise_end_with_the_same_bytes(case: Case, order: str) -> None:
    start, targets = problem(case, np.float32)

    def laid(a: np.ndarray) -> np.ndarray:
        return np.asfortranarray(a) if order == "F" else np.repeat(a[..., None], 2, -1)[..., 0]

    params, others = [p.copy() for p in start], [laid(p) for p in start]
    opts = [case.make(p) for p in (params, others)]
    for _ in range(STEPS):
        for opt, own in zip(opts, (params, others), strict=True):
            opt.step([laid(g) if own is others else g for g in gradients(own, targets)])
    assert_same_bits(others, params, "params")


@by_first
def test_a_tensor_that_thaws_with_new_states_starts_as_it_did(case: Case) -> None:
    start, targets = problem(case, np.float32)
    params = [p.copy() for p in start]
    opt = case.make(params)
    fresh = exactly({k: v[0] for k, v in opt.state.items() if opt.rule.extents[k] != "list"})
    opt.step(gradients(params, targets))
    params[0][...] = start[0]
    opt.freeze("0")
    opt.unfreeze("0", state="reset")
    assert exactly({k: v[0] for k, v in opt.state.items() if opt.rule.extents[k] != "list"}) == fresh


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_muon_names_a_parameter_that_is_no_matrix() -> None:
    with pytest.raises(ValueError, match=r"\[muon\] params\[1\]: expected a matrix .*, received shape \(3,\)"):
        fu.Muon([np.ones((2, 2)), np.ones(3)])


def test_factors_that_are_kept_are_those_of_a_step_that_was_taken() -> None:
    """A step that is left out or fails leaves them as they were, and a checkpoint goes on with them."""
    w, g = np.arange(12.0).reshape(3, 4) ** 0.5, np.cos(np.arange(12.0)).reshape(3, 4)
    opts = [fu.SOAP([w.copy()], lr=0.1, max_precondition_dim=3, nonfinite=how) for how in ("skip", "propagate")]
    before = exactly(opts[1].state)
    with pytest.raises(FloatingPointError, match=r"\[soap\] grads\[0\]: expected a gradient whose products have"):
        opts[1].step([np.full((3, 4), np.nan)])
    assert exactly(opts[1].state) == before
    for k in range(3):
        opts[0].step([g + k])
    before = exactly(opts[0].state)
    opts[0].step([g * np.nan])
    assert exactly(opts[0].state) == before
    assert [opts[0].state[name][0].shape for name in ("left", "right")] == [(3, 3), (0, 0)]
    opts[1].load_state_dict(opts[0].state_dict())
    for a, b in zip(opts[0].state.values(), opts[1].state.values(), strict=True):
        assert_same_bits(a, b, "state")
    opts[1].freeze("*")
    opts[1].unfreeze("*", state="reset")
    opts[1].step([g])
    fresh = fu.SOAP([w.copy()], lr=0.1, max_precondition_dim=3)
    fresh.step([g])
    assert exactly({**opts[1].state, "v": 0}) == exactly({**fresh.state, "v": 0})


def declared(**members: Any) -> type:
    """A rule that measures, but for what is changed."""

    def prepare(h: Any, t: Any) -> Any:
        return scalars(lr=h.lr)

    def measure(flags: Any, s: Any, g: Any, p: Any, size: Any) -> Any:
        return g * g

    def settle_tensor(flags: Any, s: Any, n: Any, squares: Any, size: Any) -> Any:
        return squares / n

    def update(flags: Any, s: Any, g: Any, p: Any, size: Any) -> Any:
        return (-s.lr * g / size,)

    own = SimpleNamespace(
        lr=Hyper(0.1, NON_NEGATIVE, "rate"),
        size=State("mean square", per="tensor"),
        squares=Sum("squares", per="tensor"),
        **{f.__name__: staticmethod(f) for f in (prepare, measure, settle_tensor, update)},
    )
    return type("Sized", (), {k: v for k, v in {**vars(own), **members}.items() if v is not None})


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"settle_tensor": None}, r"settle_tensor: expected a @staticmethod, received none"),
        (
            {"squares": Sum("", per="tensor", of="measure_2")},
            r"squares: expected `of` to name a function that measures",
        ),
        ({"settle_row": staticmethod(lambda *_: 0)}, r"settle_row: expected a Hyper"),
        (
            {
                "more": Sum("", per="tensor", of="measure_2"),
                "measure_2": staticmethod(lambda flags, s, g, p, size: g),
            },
            r"settle_tensor_2: expected a @staticmethod, received none",
        ),
        (
            {"measure": staticmethod(lambda flags, s, g, p: g)},
            r"measure: expected the arguments \(flags, s, g, p, size\), received \(flags, s, g, p\)",
        ),
        (
            {"size": State("", per="tensor", when="lr")},
            r"size: expected a state of an element, where `when` names a flag, received per tensor",
        ),
        (
            {"left": Factor("", per="rows", at_most="longest")},
            r"left: expected `at_most` to name a hyperparameter, received 'longest'",
        ),
        (
            {"matrix": staticmethod(lambda flags, s, left: left)},
            r"matrix: expected the arguments \(flags, …\) or \(flags, s, …\), of states, received \(flags, s, left\)",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_named(members: dict[str, Any], message: str) -> None:
    rule_of(declared())
    with pytest.raises(TypeError, match=rf"\[sized\] {message}"):
        rule_of(declared(**members))


def test_a_matrix_without_elements_is_left_alone() -> None:
    """Muon's scale by rows and columns would divide by zero, between the phases of a step."""
    whole, params = [np.ones((3, 4))], [np.ones((3, 4)), np.zeros((0, 4))]
    alone, both = (fu.Muon(arrays, rows_are_inputs=True) for arrays in (whole, params))
    alone.step([np.eye(3, 4)])
    both.step([np.eye(3, 4), np.zeros((0, 4))])
    assert_same_bits(params[0], whole[0], "what has elements")
