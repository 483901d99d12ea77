"""What belongs to a step beside the rule: penalties, averages, copies, masks.

Every option is compared with another library or a formula (those that scale and clip in test_clipping.py, weight
decay in test_decay.py), and then,
for every rule and backend, with the bits of reference.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import (
    BEST,
    FIRST_CASES,
    arrays_of,
    assert_same_bits,
    by_backend,
    by_dtype,
    by_rule,
    every_run,
    gradients,
    moderate_arrays,
    random_arrays,
)
from peers import peer
from reference import Reference
from tolerances import PEER, Drift

import fastupdate as fu

SIZES = [1, 7, 33, 1024, 2500]
STEPS = 5

EACH: dict[str, dict[str, Any]] = {
    "clip_norm": {"clip_norm": 3.0},
    "clip_norm-not-reached": {"clip_norm": 1e9},
    "clip_tensor_norm": {"clip_tensor_norm": 2.0},
    "clip_unit_norm": {"clip_unit_norm": 0.02},
    "clip_value": {"clip_value": 0.7},
    "clip_value-pair": {"clip_value": (-0.3, 1.2)},
    "coupled": {"decay": "coupled"},
    "decoupled": {"decay": "decoupled"},
    "independent": {"decay": "independent"},
    "cautious-decay": {"decay": "cautious"},
    "cautious-both": {"decay": "cautious", "cautious": True, "monitor": True},
    "corrected": {"decay": "corrected", "peak_lr": 0.4},
    "after": {"decay": "after", "cautious": True, "l1": 0.05, "monitor": True},
    "l1-subgradient": {"l1": 0.05},
    "l1-proximal": {"l1": 0.05, "l1_mode": "proximal"},
    "ema_decay": {"ema_decay": 0.9},
    "float16": {"shadow": "float16"},
    "bfloat16": {"shadow": "bfloat16"},
    "lookahead": {"lookahead": (2, 0.5)},
    "optimism": {"optimism": 0.3, "clip_value": 2.0, "l1": 0.05},
    "cautious": {"cautious": True},
    "cautious-more": {"cautious": True, "decay": "independent", "monitor": True, "maximize": True},
    "cautious-mean": {"cautious": "mean", "decay": "cautious"},
    "cautious-count": {"cautious": "count", "decay": "coupled", "monitor": True, "l1": 0.05, "clip_value": 2.0},
    "mars": {"optimism": 0.3, "optimism_norm": 1.0, "l1": 0.05},
    "centralize": {"centralize": True, "optimism": 0.3, "optimism_norm": 30.0, "cautious": "mean", "monitor": True},
    "trust_ratio": {"trust_ratio": True, "l1": 0.05, "cautious": True, "decay": "cautious"},
    "keep_norm": {"keep_norm": True, "decay": "independent", "monitor": True},
    "keep_norm-after": {"keep_norm": True, "decay": "after"},
    "hyperball": {"keep_norm": True, "trust_ratio": True, "ema_decay": 0.9, "maximize": True},
    "zero_grads": {"zero_grads": True},
    "maximize": {"maximize": True},
    "monitor": {"monitor": True},
    "skip": {"nonfinite": "skip"},
}


# What leaves vectors alone, and the matrices that they become.
OF_MATRICES = ("centralize", "keep_norm", "hyperball")
ROWS = {1: 1, 7: 7, 33: 3, 1024: 32, 2500: 50}


def as_matrices(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [a.reshape(ROWS[a.size], -1) for a in arrays]


@every_run((case, option, engine) for case in FIRST_CASES for option in EACH for engine in BEST)
def test_bits_of_the_reference(case, engine, dtype, options):
    backend, option = engine.select(), options
    shaped = as_matrices if options in OF_MATRICES else list
    params = shaped(random_arrays(1, SIZES, dtype))
    reference = Reference(case, params, **EACH[option])
    opt = case.make(params, backend=backend, **EACH[option])
    for grads in map(shaped, gradients(2, STEPS, SIZES, dtype)):
        reference.step(grads, loss_scale=3.0)
        report = opt.step(grads, loss_scale=3.0)
        assert report.clip_factor == reference.clip_factor
        assert report.grad_norm == reference.grad_norm
        assert option != "zero_grads" or not any(g.any() for g in grads)
    for kind, values in reference.arrays().items():
        assert_same_bits(arrays_of(opt)[kind], values, kind)


# -- penalties ---------------------------------------------------------------------------------------------------------


@by_backend
def test_l1_subgradient(backend):
    p = np.array([2.0, -2.0, 0.0, -0.0])
    fu.SGD([p], lr=0.5, l1=0.25, backend=backend).step([np.zeros(4)])
    assert p.tolist() == [1.875, -1.875, 0.0, 0.0]


@by_backend
@by_rule
def test_l1_proximal(case, backend):
    """Soft thresholding by α·l1 after the rule: small weights become exactly zero, and stay so without gradient."""
    options = {"lr": 0.5, "weight_decay": 0.0, "l1": 0.25, "l1_mode": "proximal", "backend": backend}
    p = np.array([2.0, -2.0, 0.125, -0.125, 0.1, -0.1, 0.0, np.nan])
    opt = case.make([p], **options)
    opt.step([np.zeros(8)])
    np.testing.assert_array_equal(p, [1.875, -1.875, 0.0, 0.0, 0.0, 0.0, 0.0, np.nan])
    for _ in range(20):
        opt.step([np.zeros(8)])
    np.testing.assert_array_equal(p, [0.0] * 7 + [np.nan])


# -- what follows the weights -----------------------------------------------------------------------------------------


@pytest.mark.peer
@by_dtype
@by_backend
@by_rule
def test_ema(case, backend, dtype):
    torch = peer("torch")
    p = moderate_arrays(1, [100], dtype)[0]
    module = torch.nn.Module()
    module.p = torch.nn.Parameter(torch.from_numpy(p))  # shares its memory
    average = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    average.update_parameters(module)  # the first only copies
    opt = case.make([p], ema_decay=0.9, backend=backend)
    drift = Drift(p)
    for k in range(12):
        opt.step(moderate_arrays(2 + k, [100], dtype))
        average.update_parameters(module)
        drift.compare(opt.ema[0], average.module.p.detach().numpy())
    assert drift.worst <= PEER


@pytest.mark.peer
@by_dtype
@by_backend
@pytest.mark.parametrize("every", [1, 3])
@by_rule
def test_ema_as_the_average_of_swa(case, every, backend, dtype):
    """Every or every third weight from step 4 on (Izmailov et al. 2018), as in docs/options.md."""
    torch = peer("torch")
    p, start, history = moderate_arrays(1, [100], dtype)[0], 3, []
    module = torch.nn.Module()
    module.p = torch.nn.Parameter(torch.from_numpy(p))  # shares its memory
    average = torch.optim.swa_utils.AveragedModel(module)

    def equal_average(t):
        n, rest = divmod(max(t - start, 0), every)
        return 1.0 if rest else n / (n + 1)

    opt = case.make([p], ema_decay=equal_average, backend=backend)
    drift = Drift(p)
    for k in range(20):
        opt.step(moderate_arrays(2 + k, [100], dtype))
        if k >= start and (k - start) % every == 0:
            average.update_parameters(module)
            history.append(p.copy())
        if k >= start:
            drift.compare(opt.ema[0], average.module.p.detach().numpy())
            np.testing.assert_allclose(
                opt.ema[0], np.mean(history, axis=0), rtol=1e-4 if dtype == np.float32 else 1e-12
            )
    assert drift.worst <= PEER


def neighbourhoods(narrow: np.ndarray) -> np.ndarray:
    """float32 around every value of a 16-bit type: itself, halfway to the next, and one ulp to both sides of each."""
    exact = narrow[np.isfinite(narrow)].astype(np.float32)
    exact = np.unique(exact[exact >= 0])
    halfway = (exact[:-1].astype(np.float64) + np.diff(exact.astype(np.float64)) / 2).astype(np.float32)
    beyond = np.float32([2 * exact[-1] - exact[-2], 65519.996, 65520.0, 3.4e38, np.inf])
    with np.errstate(over="ignore"):
        centres = np.concatenate([exact, halfway, beyond, exact[-1:] + (exact[-1] - exact[-2]) / 2])
    around = [centres, np.nextafter(centres, np.float32(np.inf)), np.nextafter(centres, np.float32(-np.inf))]
    values = np.concatenate([*around, np.float32([1e-45, 2**-25, 2**-24, np.nan])])
    return np.concatenate([values, -values]).astype(np.float32)


@by_backend
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_shadow(backend, kind):
    """Rounded to nearest even around each of the 2¹⁶ values: subnormal, tie, overflow, infinity, NaN."""
    narrow = np.dtype(np.float16) if kind == "float16" else np.dtype(peer("ml_dtypes").bfloat16)
    every = np.arange(2**16).astype(np.uint16).view(narrow)
    bits = np.random.default_rng(0).integers(0, 2**32, 2**18, dtype=np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        values = np.concatenate([neighbourhoods(every.astype(np.float32)), bits])
        expected = values.astype(narrow)
    p = np.full_like(values, -0.0)  # −0 + x is x, for every x
    opt = fu.SGD([p], lr=1.0, shadow=kind, backend=backend)
    opt.step([-values])
    assert_same_bits(p, values, "params")
    actual = opt.shadow[0].view(narrow)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    np.testing.assert_array_equal(actual.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])


@by_backend
@by_rule
def test_lookahead(case, backend):
    """Zhang et al. (2019), algorithm 1: every k steps slow ← slow + α(fast − slow), and fast ← slow."""
    p = moderate_arrays(1, [60], np.float64)[0]
    slow, plain = p.copy(), p.copy()
    inner = case.make([plain], backend=backend)
    opt = case.make([p], lookahead=(3, 0.4), backend=backend)
    for k in range(1, 8):
        g = moderate_arrays(2 + k, [60], np.float64)
        opt.step(g)
        inner.step(g)
        if k % 3 == 0:
            slow = slow + 0.4 * (plain - slow)
            plain[:] = slow
        np.testing.assert_array_equal(p, plain, f"step {k}")


@pytest.mark.peer
@by_backend
def test_lookahead_of_optax(backend):
    jax, optax = peer("jax"), peer("optax")
    p = moderate_arrays(1, [60], np.float32)[0]
    chain = optax.lookahead(optax.sgd(0.05), sync_period=3, slow_step_size=0.4)
    theirs = optax.LookaheadParams.init_synced(jax.numpy.array(p))
    state = chain.init(theirs)
    opt = fu.SGD([p], lr=0.05, lookahead=(3, 0.4), backend=backend)
    drift = Drift(p)
    for k in range(12):
        g = moderate_arrays(2 + k, [60], np.float32)
        updates, state = chain.update(jax.numpy.array(g[0]), state, theirs)
        theirs = optax.apply_updates(theirs, updates)
        opt.step(g)
        drift.compare(p, np.asarray(theirs.fast))
    assert drift.worst <= PEER


# -- masks and extrapolation ------------------------------------------------------------------------------------------


@pytest.mark.peer
@by_backend
@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_optimism_is_that_of_optax(backend, beta):
    jax, optax = peer("jax"), peer("optax")
    params = moderate_arrays(1, [40], np.float32)
    theirs = [jax.numpy.array(p) for p in params]
    chain = optax.optimistic_gradient_descent(0.05, alpha=1.0, beta=beta)
    state = chain.init(theirs)
    drift = [Drift(p) for p in params]
    opt = fu.SGD(params, lr=0.05, optimism=beta, backend=backend)
    for grads in (moderate_arrays(20 + k, [40], np.float32) for k in range(12)):
        updates, state = chain.update([jax.numpy.array(g) for g in grads], state, theirs)
        theirs = optax.apply_updates(theirs, updates)
        opt.step(grads)
        for d, p, q in zip(drift, params, theirs, strict=True):
            d.compare(p, np.asarray(q))
    assert max(d.worst for d in drift) <= PEER


@by_backend
@by_rule
def test_nothing_moves_along_its_gradient(case, backend):
    """What a cautious step leaves out is what moves the other way in a plain one; states are the same."""
    kwargs = {**case.kwargs, "weight_decay": 0.0}
    start, grads = random_arrays(1, SIZES, np.float64), gradients(2, 3, SIZES, np.float64)
    plain, cautious = ([p.copy() for p in start] for _ in range(2))
    opts = [fu.rules.get(case.rule)(p, **kwargs, backend=backend) for p in (plain, cautious)]
    for step in grads[:2]:
        for opt in opts:
            opt.step(step)
    opts[1] = fu.rules.get(case.rule)(cautious, **kwargs, cautious=True, backend=backend)
    opts[1].load_state_dict(opts[0].state_dict())
    before = [p.copy() for p in plain]
    for opt in opts:
        opt.step(grads[2])
    for old, p, q, g in zip(before, plain, cautious, grads[2], strict=True):
        kept = (p - old) * g < 0
        assert_same_bits(q, np.where(kept, p, old), case.rule)
    if case.rule != "sgd" or case.kwargs.get("momentum"):
        assert not all(((p - old) * g < 0).all() for old, p, g in zip(before, plain, grads[2], strict=True))
