"""Every rule computes what its source says: against torch, Keras and optax, and wider references for long runs."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import golden
import numpy as np
import pytest
from cases import (
    BEST,
    CASES,
    ELEMENTWISE,
    EVERY_CASE,
    FIRST_CASES,
    OURS_ALONE,
    PRODUCT,
    RULES,
    SIZES,
    Case,
    by_backend,
    by_case,
    by_dtype,
    by_rule,
    every_run,
    gradients,
    in_sample,
    moderate_arrays,
    random_arrays,
)
from golden.peers import Torch
from peers import peer
from reference import Reference, started, starts_of
from tolerances import PEER, PEER_NORMS, SOAK, TEN_THOUSAND_STEPS, Drift

import fastupdate as fu

STEPS = 12
TORCH = {"sgd": "SGD", "rmsprop": "RMSprop", "adam": "Adam", "adamw": "AdamW"}
KERAS = {"momentum": "SGD", "rmsprop": "RMSprop"}
OPTAX = {"sgd": "sgd", "rmsprop": "rmsprop", "adam": "adam", "adamw": "adamw"}
PEERED = [c for c in CASES if not (OURS_ALONE - {"eps_inside"}) & c.kwargs.keys()]

by_maximize = pytest.mark.parametrize("maximize", [False, True], ids=["minimize", "maximize"])


def cases_of(table: dict[str, str], *, inside: bool = False) -> Any:
    """Those of the table's rules; with ε under the root, as Keras has it, or not, as torch."""
    cases = [c for c in PEERED if c.rule in table]
    found = [c for c in cases if c.kwargs.get("eps_inside", inside and c.rule != "rmsprop") == inside]
    return pytest.mark.parametrize("case", found, ids=str)


def run(case: Case, params: list[np.ndarray], grads: list[list[np.ndarray]], **options: Any) -> fu.Optimizer:
    opt = case.make(params, **options)
    for step in grads:
        opt.step(step)
    return opt


def test_every_rule_has_a_peer():
    """A rule that only we vouch for could be wrong in every engine. Later rules have theirs in tests/golden."""
    assert set(TORCH) | set(KERAS) | set(OPTAX) >= set(RULES)
    assert all(golden.rows(name) for name in {*ELEMENTWISE} - {*RULES})


PEER_SIZES = [0, 1, 7, 16, 33, 1025]  # test_sizes has the rest


def moderate_gradients(dtype: Any, sizes: list[int]) -> list[list[np.ndarray]]:
    return [moderate_arrays(20 + k, sizes, dtype) for k in range(STEPS)]


LAMB = {"timm": {"adapt_decayed": True}, "always": {}, "clipped": {"trust_clip": True, "adapt_decayed": True}}


@pytest.mark.peer
@pytest.mark.parametrize("flags", LAMB.values(), ids=[*LAMB])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@by_dtype
def test_lamb_of_timm(dtype, weight_decay, flags):
    """Weights longer than their step, and shorter; λ decides there whether steps are as long as weights."""
    params = [a * scale for a, scale in zip(moderate_arrays(1, [30, 30], dtype), (dtype(8), dtype(2**-6)), strict=True)]
    ours = {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": weight_decay}
    named = {"trust_clip": flags.get("trust_clip", False), "always_adapt": not flags.get("adapt_decayed", False)}
    drifts, theirs = [*map(Drift, params)], Torch("timm.lamb", "Lamb", **ours, **named, max_grad_norm=None)
    theirs.start(params)
    opt = fu.Lamb(params, **ours, **flags)
    for grads in moderate_gradients(dtype, [30, 30]):
        opt.step(grads)
        for drift, p, q in zip(drifts, params, theirs.step(grads), strict=True):
            drift.compare(p, q)
    assert max(drift.worst for drift in drifts) <= PEER_NORMS


@pytest.mark.peer
@by_maximize
@by_dtype
@by_backend
@cases_of(TORCH)
def test_torch(case, backend, dtype, maximize):
    torch = peer("torch")
    params = moderate_arrays(1, PEER_SIZES, dtype)
    theirs = [torch.tensor(p) for p in params]
    drift = [Drift(p) for p in params]
    optimizer = getattr(torch.optim, TORCH[case.rule])(theirs, **case.kwargs, maximize=maximize, foreach=False)
    opt = case.make(params, maximize=maximize, backend=backend)
    for grads in moderate_gradients(dtype, PEER_SIZES):
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.from_numpy(g.copy())
        optimizer.step()
        opt.step(grads)
        for d, p, q in zip(drift, params, theirs, strict=True):
            d.compare(p, q.numpy())
    assert max(d.worst for d in drift) <= PEER


@pytest.mark.peer
@by_dtype
@by_backend
@cases_of(KERAS, inside=True)
def test_keras(case, backend, dtype, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # float64, which JAX would have to be switched to
    torch, keras = peer("torch"), peer("keras")
    h = case.kwargs
    params = moderate_arrays(1, PEER_SIZES[1:], dtype)
    theirs = [keras.Variable(p.copy(), dtype=p.dtype.name) for p in params]
    if case.rule == "momentum":
        peer_ = keras.optimizers.SGD(h["lr"], momentum=h["beta"], nesterov=h.get("nesterov", False))
    else:  # at a constant rate it does not matter that Keras' momentum holds the rate too
        names = {
            "lr": "learning_rate",
            "alpha": "rho",
            "eps": "epsilon",
            "momentum": "momentum",
            "centered": "centered",
        }
        peer_ = keras.optimizers.RMSprop(**{names[key]: value for key, value in h.items() if key in names})
    peer_.build(theirs)
    drift = [Drift(p) for p in params]
    opt = case.make(params, backend=backend)
    for grads in moderate_gradients(dtype, PEER_SIZES[1:]):
        penalised = [torch.from_numpy(g) + h["weight_decay"] * p.value for g, p in zip(grads, theirs, strict=True)]
        peer_.apply([g.detach() for g in penalised], theirs)  # Keras' own decay is decoupled
        opt.step(grads)
        for d, p, q in zip(drift, params, theirs, strict=True):
            d.compare(p, q.value.detach().numpy())
    assert max(d.worst for d in drift) <= PEER


def optax_chain(optax: Any, case: Case) -> Any:
    """The same step from optax' parts; the L2 penalty is added to the gradient as the rule does."""
    h = case.kwargs
    lr, decay = h["lr"], h["weight_decay"]
    penalty = optax.add_decayed_weights(decay)
    if case.rule == "sgd":
        return optax.chain(penalty, optax.sgd(lr, h.get("momentum"), h.get("nesterov", False)))
    if case.rule == "rmsprop":
        core = optax.scale_by_stddev if h.get("centered") else optax.scale_by_rms
        trace = [optax.trace(h["momentum"])] if "momentum" in h else []
        return optax.chain(
            penalty, core(h["alpha"], h["eps"], eps_in_sqrt=h.get("eps_inside", False)), *trace, optax.scale(-lr)
        )
    betas = dict(zip(("b1", "b2"), h["betas"], strict=True))
    if case.rule == "adamw":
        return optax.adamw(lr, **betas, eps=h["eps"], weight_decay=decay)
    return optax.chain(penalty, optax.adam(lr, **betas, eps=h["eps"]))


# optax' AMSGrad takes the maximum of corrected v, and it has no dampening.
OPTAX_CASES = [c for c in PEERED if c.rule in OPTAX and not {"amsgrad", "dampening"} & set(c.kwargs)]


@pytest.mark.peer
@by_backend
@pytest.mark.parametrize("case", OPTAX_CASES, ids=str)
def test_optax(case, backend):
    jax, optax = peer("jax"), peer("optax")
    params = moderate_arrays(1, PEER_SIZES, np.float32)
    theirs = [jax.numpy.array(p) for p in params]
    chain = optax_chain(optax, case)
    state = chain.init(theirs)
    drift = [Drift(p) for p in params]
    opt = case.make(params, backend=backend)
    for grads in moderate_gradients(np.float32, PEER_SIZES):
        updates, state = chain.update([jax.numpy.array(g) for g in grads], state, theirs)
        theirs = optax.apply_updates(theirs, updates)
        opt.step(grads)
        for d, p, q in zip(drift, params, theirs, strict=True):
            d.compare(p, np.asarray(q))
    assert max(d.worst for d in drift) <= PEER


def is_sized(case: Case, way: str, engine: Any) -> bool:
    """Numba's loops differ between rules in the formula alone: there the sample does. So does one case of each of its
    rules where gradients change their sign, which is a matter of the factor before any rule."""
    return PRODUCT or ((way == "minimize" or case in FIRST_CASES) and (in_sample(case) or bool(engine.values[0].isa)))


@every_run(
    (case, way, engine)
    for case in EVERY_CASE
    for way in ("minimize", "maximize")
    for engine in BEST
    if is_sized(case, way, engine)
)
def test_sizes(case, options, engine, dtype):
    """Every size alone in its list, so that no neighbour hides what happens beyond an end."""
    maximize = options == "maximize"
    for n in SIZES:
        guarded = random_arrays(3, [n + 8], dtype)[0]
        before = guarded.copy()
        reference = Reference(case, [guarded[4 : n + 4]], maximize=maximize)
        grads = gradients(4, 2, [n], dtype)
        run(case, [guarded[4 : n + 4]], grads, backend=engine.select(), maximize=maximize)
        for g in grads:
            reference.step(g)
        assert guarded[4 : n + 4].tobytes() == reference.params[0].tobytes(), n
        assert guarded[:4].tobytes() == before[:4].tobytes(), f"before an array of {n}"
        assert guarded[n + 4 :].tobytes() == before[n + 4 :].tobytes(), f"after an array of {n}"


def formula_steps(case: Case, p: np.ndarray) -> Generator[np.ndarray, np.ndarray, None]:
    """Takes gradients, yields parameters: the rule's readable form in the type of p and nothing else, for speed."""
    like = case.make([np.zeros(1)])
    rule, flags = like.rule, like.rule.flag_tuple(like.stepper.flags)
    states = started(p, starts_of(rule, like.groups[0]))
    kind = p.dtype.type
    t = 0
    while True:
        g = yield p
        t += 1
        prepared = rule.prepare(like.groups[0], t)
        delta, *states = rule.update(flags, type(prepared)(*map(kind, prepared)), g.astype(kind), p, *states)
        p = p + delta


def long_run(case: Case, dtype: Any, steps: int, n: int = 16) -> float:
    """The largest distance from a reference in a wider type over so many steps, in ulp."""
    p = moderate_arrays(5, [n], dtype)[0]
    drift, reference = Drift(p), formula_steps(case, p.astype(np.float64 if dtype == np.float32 else np.longdouble))
    next(reference)
    recorded = moderate_arrays(6, [n] * 101, dtype)
    buffer = np.empty_like(p)
    opt = case.make([p])
    opt.bind([buffer])
    for k in range(steps):
        buffer[:] = recorded[k % len(recorded)]
        opt.step()
        expected = reference.send(buffer)
        if k % 97 == 0 or k == steps - 1:
            drift.compare(p, expected)
    assert opt.step_count == steps
    return drift.worst


@by_dtype
@by_case
def test_ten_thousand_steps(case, dtype):
    assert long_run(case, dtype, 10**4) <= TEN_THOUSAND_STEPS


@by_rule
def test_soak(case):
    assert long_run(case, np.float32, 10**5, n=8) <= SOAK
