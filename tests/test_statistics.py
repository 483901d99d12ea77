"""The statistics of a report against NumPy in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cases import CASES, FIRST_CASES, Case, by_backend, by_dtype, by_rule, random_arrays
from reference import Reference, Tensor

import fastupdate as fu

SHAPES = {"matrix": (37, 41), "block": (1024,), "tail": (1025,), "scalar": ()}
SIZES = [math.prod(shape) for shape in SHAPES.values()]

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip_norm": {"clip_norm": 0.1},
    "clip_tensor_norm": {"clip_tensor_norm": 0.1},
    "clip_unit_norm": {"clip_unit_norm": 0.01},
    "clip_value": {"clip_value": 0.5},
    "zero_grads": {"zero_grads": True},
    "maximize": {"maximize": True},
    "penalties": {"l1": 1e-3, "decay": "independent"},
    "lookahead": {"lookahead": (2, 0.5), "l1": 1e-2, "l1_mode": "proximal"},
}
COMBINED = [(case, "plain") for case in CASES] + [(c, name) for c in FIRST_CASES for name in list(OPTIONS)[1:]]
by_combination = pytest.mark.parametrize(("case", "options"), COMBINED, ids=[f"{c}-{o}" for c, o in COMBINED])


class Watched(Reference):
    """The reference step, which also notes each tensor's momentum beforehand and its stalled elements."""

    def step(self, *args: Any, **kwargs: Any) -> bool:
        self.notes: list[tuple[np.ndarray | None, int]] = []
        return super().step(*args, **kwargs)

    def _rule(self, tensor: Tensor, hyper: dict[str, float], g: np.ndarray, p: np.ndarray) -> np.ndarray:
        name = self.rule.momentum
        momentum = tensor.states[self.rule.states.index(name)] if name in self.kept else None
        delta = super()._rule(tensor, hyper, g, p)
        self.notes.append((momentum, int(((p + delta == p) & (delta != 0)).sum())))
        return delta


def norm(x: np.ndarray) -> float:
    return math.sqrt(math.fsum(np.square(x.astype(np.float64)).ravel()))


def expected_row(raw: np.ndarray, scale: float, before: np.ndarray, after: np.ndarray, momentum: Any) -> dict[str, Any]:
    """The statistics by definition. `momentum`: before the step, in favour of the gradient; None: there is none."""
    g, change = raw.astype(np.float64) * scale, (after - before).astype(np.float64)
    dot = math.nan if momentum is None else math.fsum((g * momentum).ravel())
    length = norm(momentum) if momentum is not None else math.nan
    return {
        "n": raw.size,
        "grad_norm": norm(g),
        "weight_norm": norm(after),
        "update_norm": norm(change),
        "update_ratio": norm(change) / norm(after),
        "largest_update": np.abs(change).max(),
        "nonfinite": 0,
        "zero_fraction": np.mean(raw == 0),
        "momentum_cosine": dot / (norm(g) * length) if length else math.nan,
        "update_cosine": math.fsum((g * change).ravel()) / (norm(g) * norm(change)),
    }


def problem(dtype: Any, seed: int) -> list[np.ndarray]:
    arrays = random_arrays(seed, SIZES, dtype)
    return [array.reshape(shape) for array, shape in zip(arrays, SHAPES.values(), strict=True)]


@by_dtype
@by_combination
def test_statistics_are_those_of_numpy(case: Case, options: str, dtype: Any) -> None:
    params = problem(dtype, 0)
    reference = Watched(case, params, **OPTIONS[options])
    opt = case.make(dict(zip(SHAPES, params, strict=True)), monitor=True, **OPTIONS[options])
    for step in range(1, 5):
        grads = problem(dtype, step)
        grads[0][::2] = 0
        befores = [p.copy() for p in reference.params]
        reference.step(grads, loss_scale=4.0)
        table = opt.step(dict(zip(SHAPES, [g.copy() for g in grads], strict=True)), loss_scale=4.0).tensors
        assert list(table["name"]) == list(SHAPES)
        sign = opt.rule.momentum_sign * (-1 if OPTIONS[options].get("maximize") else 1)
        for row, g, before, after, (m, stalled) in zip(
            table, grads, befores, reference.params, reference.notes, strict=True
        ):
            assert row["stalled"] == stalled
            expected = expected_row(g, 0.25, before, after, None if m is None else sign * m)
            for name, value in expected.items():
                np.testing.assert_allclose(row[name], value, rtol=1e-13, atol=1e-15, err_msg=f"{name}, step {step}")


@by_backend
def test_reports_can_be_looked_at_later(backend: str) -> None:
    """The sums of a report are used again two steps later; whoever still has the report sees the same figures."""
    now, later = (fu.Adam(problem(np.float32, 0), monitor=True, clip_norm=1.0, backend=backend) for _ in range(2))
    steps = [problem(np.float32, k) for k in range(1, 6)]
    at_once = [repr(now.step(grads).tensors.tolist()) for grads in steps]
    kept = [later.step(grads) for grads in steps]
    assert [repr(report.tensors.tolist()) for report in kept] == at_once


MICRO_BATCHES = {
    "accumulated": lambda opt, samples: [opt.accumulate([g]) for g in samples] and opt.step(),
    "mean": lambda opt, samples: opt.step([samples], reduce="mean"),
    "sum": lambda opt, samples: opt.step([samples / len(samples)], reduce="sum"),
}
MEANS = [pytest.param(step, id=name) for name, step in MICRO_BATCHES.items()]


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 0.1}, {"clip_tensor_norm": 0.1}], ids=["free", "clipped", "each"])
@pytest.mark.parametrize("take_step", MEANS)
def test_gradient_norm_is_that_of_the_mean_before_clipping(take_step, clip):
    samples = np.random.default_rng(0).standard_normal((4, 2000))
    report = take_step(fu.SGD([np.ones(2000)], monitor=True, **clip), samples)
    np.testing.assert_allclose(report.tensors["grad_norm"], np.linalg.norm(samples.mean(axis=0)), rtol=1e-13)


# Each: the update, and whether 1 + update rounds to 1 in float32. Below 1 half an ulp is 2⁻²⁵, above it is 2⁻²⁴.
ROUNDED = {
    -(2.0**-26): True,
    -(2.0**-25): True,
    -1.5 * 2.0**-25: False,
    2.0**-24: True,
    1.5 * 2.0**-24: False,
    0.0: False,
}


@by_backend
@pytest.mark.parametrize("repeats", [1, 400])
def test_stalled_elements_are_counted_exactly(backend, repeats):
    w = np.ones(len(ROUNDED) * repeats, np.float32)
    g = np.tile(-np.float32(list(ROUNDED)), repeats)
    row = fu.SGD([w], lr=1.0, monitor=True, backend=backend).step([g]).tensors[0]
    assert row["stalled"] == sum(ROUNDED.values()) * repeats
    assert (w != 1).sum() == 2 * repeats
    assert row["zero_fraction"] == 1 / len(ROUNDED)


@by_backend
def test_nonfinite_gradients_and_zeros_are_counted(backend):
    g = np.ones(3000)
    g[[0, 1024, 2999]] = np.nan, np.inf, -np.inf
    g[100:200], g[200:300] = 0.0, -0.0
    opt = fu.SGD([np.ones(3000), np.ones(5)], monitor=True, backend=backend)
    bad, good = opt.step([g, np.zeros(5)]).tensors
    assert (bad["nonfinite"], good["nonfinite"]) == (3, 0)
    assert (bad["zero_fraction"], good["zero_fraction"]) == (200 / 3000, 1.0)
    assert np.isnan([bad[name] for name in ("grad_norm", "weight_norm", "update_norm", "largest_update")]).all()
    assert good["update_norm"] == 0.0


WITH_MOMENTUM = [case for case in FIRST_CASES if case.make([np.ones(1)]).stepper.plan.tensors["momentum"][0] >= 0]


@pytest.mark.parametrize("maximize", [False, True], ids=["minimize", "maximize"])
@pytest.mark.parametrize("alternate", [1, -1], ids=["steady", "alternating"])
@pytest.mark.parametrize("case", WITH_MOMENTUM, ids=str)
def test_cosine_is_1_while_gradients_agree_and_minus_1_when_they_turn(case, alternate, maximize):
    g = np.random.default_rng(0).choice([-1.0, 1.0], 100)  # of one magnitude: some momenta are of normalised gradients
    opt = case.make([np.ones(100)], monitor=True, maximize=maximize, weight_decay=0.0)
    first, second = (opt.step([sign * g]).tensors["momentum_cosine"][0] for sign in (1, alternate))
    assert np.isnan(first)
    assert second == pytest.approx(alternate)


@by_rule
def test_monitoring_changes_no_bit(case):
    arrays = [], []
    for monitor, kept in zip((False, True), arrays, strict=True):
        opt = case.make(problem(np.float32, 0), monitor=monitor)
        for step in range(3):
            opt.step(problem(np.float32, 1 + step))
        kept += [item.array.tobytes() for item in opt.stepper.items]
        kept += [state.tobytes() for item in opt.stepper.items for state in item.states.values()]
    assert arrays[0] == arrays[1]
