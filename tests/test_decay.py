"""How weights decay: each mode as its formula says, on every rule; and what a mask leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import (
    RULE_NAMES,
    assert_same_bits,
    by_backend,
    by_dtype,
    by_rule,
    cases_of,
    moderate_arrays,
)
from golden.peers import Torch
from peers import peer
from tolerances import PEER, Drift

import fastupdate as fu

STEPS, DECAY = 4, 0.125
EVERY = [cases_of(name)[-1] for name in RULE_NAMES]
FOUND = [case for case in EVERY if fu.rules.get(case.rule).rule.found_rate]
OWN = [case for case in EVERY if fu.rules.get(case.rule).rule.own_decay]
PLAIN = [case for case in EVERY if case not in OWN]
BY_RATE = ["decoupled", "cautious", "corrected", "after"]  # modes that go by the learning rate


# -- the modes --------------------------------------------------------------------------------------------------------


def matrices(seed: int) -> list[np.ndarray]:
    return [a.reshape(12, 5) for a in moderate_arrays(seed, [60], np.float64)]


def by_hand(case: Any, mode: str) -> list[np.ndarray]:
    """Steps of the rule without a decay of its own, the weights decaying beside it."""
    params = matrices(1)
    opt = case.make(params, weight_decay=0.0)
    lr = opt.groups[0]["lr"]
    for k in range(STEPS):
        grads = matrices(2 + k)
        for p, g in zip(params, grads, strict=True):
            if mode == "coupled":
                g += DECAY * p
            elif mode != "after":
                p *= 1 - (lr * DECAY if mode == "decoupled" else DECAY)
        opt.step(grads)
        for p in params if mode == "after" else ():
            p *= 1 - lr * DECAY
    return params


def decayed(case: Any, **options: Any) -> list[np.ndarray]:
    params = matrices(1)
    opt = case.make(params, weight_decay=DECAY, **options)
    for k in range(STEPS):
        opt.step(matrices(2 + k))
    return params


MODES = [
    pytest.param(case, mode, id=f"{case}-{mode}")
    for case in EVERY
    for mode in ("coupled", "decoupled", "independent", "after")
    if not (case in FOUND and mode in BY_RATE)
]


@pytest.mark.parametrize(("case", "mode"), MODES)
def test_each_mode_is_what_it_says(case, mode):
    """λw in the gradient, or weights that shrink, beside a rule that knows nothing of it."""
    expected = by_hand(case, mode)
    for p, q in zip(decayed(case, decay=mode), expected, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-11, err_msg=str(case))


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_the_decay_of_a_rule(case):
    """Where a rule does not say that its decay is its own, it is one of two modes."""
    mode = "decoupled" if fu.rules.get(case.rule).rule.decoupled_decay else "coupled"
    for p, q in zip(decayed(case), by_hand(case, mode), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-7, atol=1e-11, err_msg=str(case))


@pytest.mark.parametrize("decay", BY_RATE)
@pytest.mark.parametrize("case", FOUND, ids=str)
def test_a_rate_that_is_found_decays_nothing(case, decay):
    """lr is 1 there: weights would shrink by λ itself."""
    words = rf"\[{case.rule}\] decay: expected None, 'coupled' or 'independent', .* received '{decay}'"
    with pytest.raises(ValueError, match=words):
        case.make([np.ones(3)], decay=decay, **({"peak_lr": 1.0} if decay == "corrected" else {}))


def test_rows_that_do_not_move_do_not_decay():
    """By SparseAdam, which is lazy; a step by the same rows as a dense gradient decays them all."""
    p, q = np.ones((4, 2)), np.ones((4, 2))
    rows = fu.Rows(np.array([2]), np.array([[0.0, 1.0]]))
    fu.SparseAdam([p], lr=0.25, weight_decay=0.5).step([rows])
    fu.SparseAdam([q], lr=0.25, weight_decay=0.5, rows="dense").step([rows])
    assert_same_bits(p[[0, 1, 3]], np.ones((3, 2)), "rows that stay")
    assert (p[2] < 1).all()
    assert (q < 1).all()


DECAYS = [("adam", "decoupled", "AdamW"), ("adamw", "coupled", "Adam"), ("adamw", "decoupled", "AdamW")]


@pytest.mark.peer
@pytest.mark.parametrize(("rule", "decay", "theirs"), DECAYS, ids=[f"{r}-{d}" for r, d, _ in DECAYS])
@by_dtype
@by_backend
def test_decay_of_another_kind(backend, dtype, rule, decay, theirs):
    """Adam whose decay is decoupled is AdamW, and the other way round."""
    torch = peer("torch")
    case = cases_of(rule)[0]
    p = moderate_arrays(1, [200], dtype)[0]
    q = torch.tensor(p)
    drift = Drift(p)
    optimizer = getattr(torch.optim, theirs)([q], **case.kwargs)
    opt = case.make([p], decay=decay, backend=backend)
    for k in range(12):
        g = moderate_arrays(2 + k, [200], dtype)
        q.grad = torch.from_numpy(g[0].copy())
        optimizer.step()
        opt.step(g)
        drift.compare(p, q.numpy())
    assert drift.worst <= PEER


@by_backend
@by_rule
def test_cautious_decay_leaves_alone_what_moves_away_from_zero(case, backend):
    """Without a change every weight decays; NaN stays NaN."""
    kwargs = {**case.kwargs, "lr": 0.5, "weight_decay": 0.25}
    weights, g = np.array([1.0, 1.0, -1.0, -1.0, np.nan]), np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    plain, masked = weights.copy(), weights.copy()
    fu.rules.get(case.rule)([plain], **{**kwargs, "weight_decay": 0.0}, backend=backend).step([g])
    fu.rules.get(case.rule)([masked], **kwargs, decay="cautious", backend=backend).step([g])
    change, toward = plain - weights, np.array([True, False, False, True, True])
    assert_same_bits(masked, weights + np.where(toward, change - 0.125 * weights, change), case.rule)


CORRECTED = [({"decay": "corrected"}, "expected the largest learning rate, received None"),
             ({"peak_lr": 0.1}, "expected None, unless decay='corrected', received 0.1"),
             ({"decay": "corrected", "peak_lr": 0.0}, "expected a number > 0, received 0.0"),
             ({"decay": "corrected", "peak_lr": np.nan}, "expected a number > 0, received nan")]  # fmt: skip


@pytest.mark.parametrize(("options", "words"), CORRECTED, ids=[str(options) for options, _ in CORRECTED])
def test_corrected_decay_is_told_the_largest_rate(options, words):
    with pytest.raises(ValueError, match=rf"\[adam\] peak_lr: {words}"):
        fu.Adam([np.ones(3)], **options)


@by_backend
@by_rule
def test_independent_decay(case, backend):
    """w ← (1 − λ)w whatever the learning rate: with none, decay is all that happens."""
    p = np.linspace(-2, 2, 50)
    case.make([p], lr=0.0, decay="independent", weight_decay=0.25, backend=backend).step([np.ones(50)])
    np.testing.assert_array_equal(p, np.linspace(-2, 2, 50) * 0.75)


# -- masks ------------------------------------------------------------------------------------------------------------


def after_zeros(case: Any, **options: Any) -> np.ndarray:
    """What two steps without gradients leave of weights."""
    p = np.linspace(1, 2, 12).reshape(4, 3)
    opt = case.make([p], weight_decay=0.1, **options)
    for _ in range(2):
        opt.step([np.zeros_like(p)])
    return p


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_a_mask_does_not_reach_the_decay_of_a_rule(case):
    """An L2 term is no decay: where the gradient without it is 0, nothing moves along or against that."""
    masked = after_zeros(case, cautious=True)
    if fu.rules.get(case.rule).rule.decoupled_decay:
        np.testing.assert_allclose(masked, after_zeros(case), rtol=1e-14)
    else:
        assert_same_bits(masked, np.linspace(1, 2, 12).reshape(4, 3), case.rule)


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_a_mask_does_not_reach_a_decay_that_is_asked_for(case):
    expected = np.linspace(1, 2, 12).reshape(4, 3) * 0.9 * 0.9
    np.testing.assert_allclose(after_zeros(case, cautious=True, decay="independent"), expected, rtol=1e-14)


@pytest.mark.peer
@by_dtype
def test_a_mask_sees_a_penalty_that_is_asked_for(dtype):
    """timm's ADOPT masks by ∇L + λw, as decay="coupled" does; a rule's own L2 term the mask does not see."""
    params = moderate_arrays(1, [200], dtype)
    drift, theirs = Drift(params[0]), Torch("timm.adopt", "Adopt", lr=0.01, weight_decay=0.3, caution=True)
    theirs.start(params)
    opt = fu.ADOPT(params, lr=0.01, weight_decay=0.3, clip_exp=0.333, cautious="mean", decay="coupled")
    for grads in (moderate_arrays(2 + k, [200], dtype) for k in range(12)):
        opt.step(grads)
        drift.compare(params[0], *theirs.step(grads))
    assert drift.worst <= PEER


REACHED = (
    r"weight_decay: expected 0, or decay= \('coupled', 'independent' …\), for cautious would mask .* received 0\.1"
)


@pytest.mark.parametrize("cautious", [True, "mean", "count"])
@pytest.mark.parametrize("case", OWN, ids=str)
def test_a_mask_that_would_reach_the_decay_of_a_rule_is_refused(case, cautious):
    with pytest.raises(ValueError, match=rf"\[{case.rule}\] {REACHED}"):
        case.make([np.ones(3)], weight_decay=0.1, cautious=cautious)
    opt = case.make([np.ones((2, 2))], weight_decay=0.0, cautious=cautious)
    for value, received in ((0.1, ""), (lambda step: 0.1 * step, "<function")):
        with pytest.raises(ValueError, match=REACHED if not received else REACHED.replace(r"0\.1", received)):
            opt.weight_decay = value
    assert opt.weight_decay == 0.0


@pytest.mark.peer
def test_so_it_is_with_torch():
    """Where groups hold the numbers: when the optimizer is made, and in each step of a group that says otherwise."""
    torch = peer("torch")
    p = torch.nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match=REACHED):
        fu.torch.AdamP([p], weight_decay=0.1, cautious=True)
    with pytest.raises(ValueError, match=r"\[prodigy\] decay: expected None, 'coupled' or 'independent'"):
        fu.torch.Prodigy([p], decay="decoupled")
    optimizer = fu.torch.AdamP([p], weight_decay=0.0, cautious=True)
    p.grad = torch.ones(2, 2)
    optimizer.step()
    optimizer.param_groups[0]["weight_decay"] = 0.1
    for _ in range(2):
        with pytest.raises(ValueError, match=REACHED):
            optimizer.step()
    optimizer.param_groups[0]["weight_decay"] = 0.0
    optimizer.step()
    assert optimizer.report.step == 2


@by_backend
def test_a_cautious_step_decays_all_weights(backend):
    """Weight decay that is not part of the gradient is no movement of the rule's."""
    p, g = np.array([1.0, 1.0]), np.array([-1.0, 1.0])
    opt = fu.AdamW([p], lr=0.5, weight_decay=0.5, cautious=True, betas=(0.9, 0.9), backend=backend)
    opt.step([np.array([10.0, 10.0])])
    p[:] = 1.0
    opt.step([g])  # the mean still leads down: along the first gradient, against the second
    assert p[0] == 0.75
    assert p[1] < 0.75
