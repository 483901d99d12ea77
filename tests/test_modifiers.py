"""Modifiers, which are options here, beside packages that have them as options of some rules."""

from __future__ import annotations

from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
from cases import arrays_of, assert_same_bits, by_backend, by_dtype, cases_of, moderate_arrays
from golden import Arrays, Peer
from golden.peers import Around, Optax, Torch, file_of
from peers import peer
from tolerances import PEER, PEER_NORMS, Drift

import fastupdate as fu

STEPS, SHAPES = 12, [(200,), (30, 7), (3, 40, 5)]
ADAM = {"betas": (0.85, 0.97), "eps": 1e-6, "weight_decay": 0.03}
LION = {"betas": (0.85, 0.97), "weight_decay": 0.03}
SGDW = {"momentum": 0.9, "weight_decay": 0.03}


def falling(t: Any) -> Any:
    """The learning rate."""
    return 0.05 * 0.9**t


class Modified(NamedTuple):
    """A rule with options, and a package's rule with its own; `narrow`: why they are compared in float32 alone."""

    rule: str
    options: dict[str, Any]
    theirs: Peer
    narrow: str | None = None


class WideMask(Torch):
    """One whose mask is a float32: in the type of the weights."""

    def step(self, grads: Arrays) -> Arrays:
        dtype = self.weights[0].dtype
        with mock.patch.object(peer("torch").Tensor, "float", lambda mask: mask.to(dtype)):
            return super().step(grads)


class BareMask(Torch):
    """One of pytorch_optimizer's whose steps are masked, and not made longer for it: no package has that by itself."""

    def step(self, grads: Arrays) -> Arrays:
        with mock.patch.object(type(self.optimizer), "apply_cautious", lambda self, step, g: step.mul_(step * g > 0)):
            return super().step(grads)


def clip_units(opt: Any) -> None:
    """Lets timm clip the gradients before each step of an optimizer."""

    def clip(opt: Any, *of_the_step: Any) -> None:
        file_of("timm", "agc", "utils").adaptive_clip_grad(opt.param_groups[0]["params"], 0.9)

    opt.register_step_pre_hook(clip)


CORRECTED = {"decay": "corrected", "peak_lr": 0.05}
ROWS = {
    "corrected-timm-adamw": Modified(
        "adam", {**ADAM, **CORRECTED}, Torch("timm.adamw", "AdamWLegacy", **ADAM, lr=0.05, corrected_weight_decay=True)
    ),
    "corrected-timm-lion": Modified(
        "lion", {**LION, **CORRECTED}, Torch("timm.lion", "Lion", **LION, lr=0.05, corrected_weight_decay=True)
    ),
    "corrected-adamc": Modified(
        "adamw",
        {**ADAM, "eps": 0.0, **CORRECTED},
        Torch(
            "pytorch_optimizer",
            "AdamC",
            **ADAM | {"eps": 0.0},
            lr=0.05,
            before=lambda opt: opt.param_groups[0].update(normalized=True),
        ),
        narrow="the package adds 1e-15 to squares, and its ε before it corrects the root",
    ),
    "cautious-decay": Modified(
        "lion",
        {**LION, "decay": "cautious"},
        WideMask("lion_pytorch.cautious_lion", "Lion", **LION, lr=0.05, cautious_factor=1.0, cautious_wd=True),
    ),
    "cautious-mean-timm-adamw": Modified(
        "adamw", {**ADAM, "cautious": "mean"}, Torch("timm.adamw", "AdamWLegacy", **ADAM, lr=0.05, caution=True)
    ),
    "cautious-mean-timm-nadamw": Modified(
        "nadamw", {**ADAM, "cautious": "mean"}, Torch("timm.nadamw", "NAdamW", **ADAM, lr=0.05, caution=True)
    ),
    "cautious-mean-timm-lion": Modified(
        "lion", {**LION, "cautious": "mean"}, Torch("timm.lion", "Lion", **LION, lr=0.05, caution=True)
    ),
    "cautious-count-lion": Modified(
        "lion", {**LION, "cautious": "count"}, Torch("pytorch_optimizer", "Lion", **LION, lr=0.05, cautious=True)
    ),
    "centralize-lion": Modified(
        "lion", {**LION, "centralize": True}, Torch("pytorch_optimizer", "Lion", **LION, lr=0.05, use_gc=True)
    ),
    "mars-timm": Modified(
        "adamw",
        {**ADAM, "optimism": 0.025 * 0.85 / 0.15, "optimism_norm": 1.0},
        Torch("timm.mars", "Mars", **ADAM, lr=0.05, gamma=0.025, optimize_1d=True),
    ),
}

# These go natively alone: tests/test_options.py has the engines beside each other.
FURTHER = {
    "cautious": Modified(
        "lion", {**LION, "cautious": True}, BareMask("pytorch_optimizer", "Lion", **LION, lr=0.05, cautious=True)
    ),
    "cautious-mean-timm-sgdw": Modified(
        "sgdw", SGDW | {"cautious": "mean"}, Torch("timm.sgdw", "SGDW", **SGDW, lr=0.05, caution=True)
    ),
    "cautious-mean-timm-mars": Modified(
        "mars", ADAM | {"cautious": "mean"}, Torch("timm.mars", "Mars", **ADAM, lr=0.05, caution=True)
    ),
    "clip_unit_norm-timm": Modified(
        "adamw", ADAM | {"clip_unit_norm": 0.9}, Torch("torch.optim", "AdamW", **ADAM, lr=0.05, before=clip_units)
    ),
    "lookahead-pytorch_optimizer": Modified(
        "adamw",
        ADAM | {"lookahead": (3, 0.4)},
        Around("pytorch_optimizer", "Lookahead", Torch("torch.optim", "AdamW", **ADAM, lr=0.05), k=3, alpha=0.4),
    ),
    "centralize-optax": Modified(
        "adamw",
        ADAM | {"centralize": True},
        Optax(lambda o: o.chain(o.centralize(), o.adamw(falling, 0.85, 0.97, 1e-6, weight_decay=0.03))),
    ),
    "rising_beta2-optax": Modified(
        "adamw",
        ADAM | {"betas": (0.85, fu.schedules.rising_beta2())},
        Optax(
            lambda o: o.inject_hyperparams(o.adamw)(
                falling, 0.85, b2=lambda t: 1 - (t + 1.0) ** -0.8, eps=1e-6, weight_decay=0.03
            )
        ),
    ),
}


def shaped(seed: int, dtype: Any) -> list[np.ndarray]:
    arrays = moderate_arrays(seed, [int(np.prod(shape)) for shape in SHAPES], dtype)
    return [a.reshape(shape) for a, shape in zip(arrays, SHAPES, strict=True)]


def assert_together(row: Modified, dtype: Any, **backend: Any) -> None:
    """Over a learning rate that falls: optax has it in its chain."""
    if dtype == np.float64 and row.narrow:
        pytest.skip(row.narrow)
    params = shaped(1, dtype)
    row.theirs.start(params)
    drifts = [Drift(p) for p in params]
    opt = fu.rules.get(row.rule)(params, lr=falling, **backend, **row.options)
    for k in range(STEPS):
        if isinstance(row.theirs, Torch):
            row.theirs.optimizer.param_groups[0]["lr"] = falling(k)
        grads = shaped(2 + k, dtype)
        opt.step(grads)
        for drift, p, q in zip(drifts, params, row.theirs.step(grads), strict=True):
            drift.compare(p, q)
    assert max(drift.worst for drift in drifts) <= PEER


@pytest.mark.peer
@pytest.mark.parametrize("name", ROWS)
@by_dtype
@by_backend
def test_beside_the_package(backend, dtype, name):
    assert_together(ROWS[name], dtype, backend=backend)


@pytest.mark.peer
@pytest.mark.parametrize("name", FURTHER)
@by_dtype
def test_further_ones_beside_the_package(dtype, name):
    assert_together(FURTHER[name], dtype)


def on_their_spheres(optax: Any, params: list[Any], moved: list[Any]) -> list[Any]:
    """Weights that have moved, brought back to the norms that they had; vectors are not."""
    return [
        q if p.ndim < 2 else optax.projections.projection_l2_sphere(q, optax.tree.norm(p))
        for p, q in zip(params, moved, strict=True)
    ]


@pytest.mark.peer
@pytest.mark.parametrize("sphere", [False, True], ids=["trust_ratio", "hyperball"])
@pytest.mark.parametrize("rule", ["adamw", "lion"])
@by_backend
def test_lengths_of_steps_and_weights_beside_optax(backend, rule, sphere):
    """Steps as long as their weights; and, with `keep_norm`, projected to the sphere that the weights were on."""
    optax, jax = peer("optax"), peer("jax")
    given = ADAM if rule == "adamw" else LION
    (b1, b2), decay = given["betas"], 0.0 if sphere else given["weight_decay"]
    scale = optax.scale_by_adam(b1, b2, 1e-6) if rule == "adamw" else optax.scale_by_lion(b1, b2)
    chain = optax.chain(
        scale,
        optax.add_decayed_weights(decay),
        optax.scale_by_trust_ratio(),
        optax.scale_by_learning_rate(falling),
    )
    params = shaped(1, np.float32)
    theirs = [jax.numpy.array(p) for p in params]
    state = chain.init(theirs)
    drifts = [Drift(p) for p in params]
    options = {**given, "weight_decay": decay, "trust_ratio": True, "keep_norm": sphere}
    opt = fu.rules.get(rule)(params, lr=falling, backend=backend, **options)
    for k in range(STEPS):
        grads = shaped(2 + k, np.float32)
        opt.step(grads)
        updates, state = chain.update([jax.numpy.array(g) for g in grads], state, theirs)
        moved = optax.apply_updates(theirs, updates)
        theirs = on_their_spheres(optax, theirs, moved) if sphere else moved
        for drift, p, q in zip(drifts, params, theirs, strict=True):
            drift.compare(p, np.asarray(q))
    assert max(drift.worst for drift in drifts) <= PEER_NORMS


@pytest.mark.parametrize("rule", fu.rules.names())
def test_measuring_a_change_leaves_no_trace(rule):
    """States are those of a plain step, whatever the rule keeps; weights are where the plain step takes them, k of n
    elements moving, or further by n/(k + 1)."""
    case = cases_of(rule)[-1]
    options = {"weight_decay": 0.0} if "weight_decay" in fu.rules.get(rule).rule.hypers else {}
    shapes = [(30, 7), (5, 40)]
    start, *grads = (
        [a.reshape(s) for a, s in zip(moderate_arrays(k, [210, 200], np.float64), shapes, strict=True)]
        for k in range(4)
    )
    opts = []
    for cautious in (False, "count"):
        params = [p.copy() for p in start]
        opts.append(case.make(params, **options))
        for g in grads[:2]:
            opts[-1].step(g)
        if cautious:
            opts.append(case.make(params, **options, cautious=cautious))
            opts[-1].load_state_dict(opts[-2].state_dict())
            del opts[-2]
    before = [p.copy() for p in opts[0].params]
    for opt in opts:
        opt.step(grads[2])
    plain, cautious = (arrays_of(opt) for opt in opts)
    for old, p, q, g in zip(before, plain.pop("params"), cautious.pop("params"), grads[2], strict=True):
        taken = (p - old) * g < 0
        step = np.where(taken, p - old, 0.0) * (g.size / (np.count_nonzero(taken) + 1))
        np.testing.assert_allclose(q - old, step, rtol=1e-9, atol=1e-13)
        assert step.any()
    for kind, arrays in plain.items():
        assert_same_bits(cautious[kind], arrays, kind)
