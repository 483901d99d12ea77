"""docs/peers.md: in each row, the peer's call and ours do the same to the same weights."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import written_peers
from cases import by_backend
from golden.peers import Mlx
from peers import peer
from tolerances import PEER, Drift

import fastupdate as fu

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "peers.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (`.*`) \| (`fu\..*`) \|$", re.MULTILINE)
STEPS = 12
SIZES = [3, 40, 7]

TOLERANCE = 2 * PEER  # ulp: gradients that turn round leave less of the momentum than those of test_rules.py
# How far apart, relative to the way that each tensor has come, where rules sum over tensors.
OF_SUMS = ("fu.Lamb(", "fu.Adafactor(", "fu.Prodigy(", "fu.Muon(")
BY_SUMS = {np.float32: 1e-5, np.float64: 1e-9}
IN_BFLOAT16 = 0.02  # torch's Muon multiplies its matrices in that type
CLIPPED = 1e-5  # of the largest weight, where the peer does without the 10⁻⁶ that torch and we add to a norm


def shaped(flat: list[np.ndarray], call: str) -> list[np.ndarray]:
    """As matrices, for rules that are about those."""
    of_matrices = re.search("muon|adafactor", call.lower())
    return [a.reshape(-1, 8 if a.size % 8 == 0 else 1) for a in flat] if of_matrices else flat


def arrays(seed: int, dtype: Any) -> list[np.ndarray]:
    """Of both signs; the second tensor's are small enough for ε to matter, the third's of all sizes."""
    rng = np.random.default_rng(seed)
    scales = [1.0, 1e-5, 10.0 ** rng.uniform(-4, 1, SIZES[2])]
    pairs = zip(SIZES, scales, strict=True)
    return [(rng.choice([-1.0, 1.0], n) * rng.uniform(0.5, 2, n) * scale).astype(dtype) for n, scale in pairs]


def weights(dtype: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(99)
    return [(rng.choice([-1.0, 1.0], n) * rng.uniform(0.5, 1, n)).astype(dtype) for n in SIZES]


Step = Callable[[list[np.ndarray]], list[np.ndarray]]  # gradients → weights afterwards, or their average


def with_torch(calls: list[str], dtype: Any) -> Step:
    torch = peer("torch")
    p = [torch.nn.Parameter(torch.from_numpy(w)) for w in shaped(weights(dtype), calls[0])]
    scope = {"torch": torch, "p": p}
    package = calls[0].partition(".")[0]
    scope[package] = peer(package)
    opt = eval(calls[0], scope)

    def step(grads: list[np.ndarray]) -> list[np.ndarray]:
        for tensor, g in zip(p, grads, strict=True):
            tensor.grad = torch.from_numpy(g.copy())
        for call in calls[1:]:
            eval(call, scope)
        opt.step()
        return [tensor.detach().numpy() for tensor in p]

    return step


def with_optax(calls: list[str], dtype: Any) -> Step:
    jax, optax = peer("jax"), peer("optax")
    p = [jax.numpy.array(w) for w in shaped(weights(dtype), calls[0])]
    chain = eval(calls[0], {"optax": optax})
    state = chain.init(p)

    def step(grads: list[np.ndarray]) -> list[np.ndarray]:
        nonlocal p, state
        updates, state = chain.update([jax.numpy.array(g) for g in grads], state, p)
        p = optax.apply_updates(p, updates)
        return [np.asarray(w) for w in p]

    return step


def with_keras(calls: list[str], dtype: Any) -> Step:
    torch, keras = peer("torch"), peer("keras")
    p = [keras.Variable(w, dtype=w.dtype.name) for w in shaped(weights(dtype), calls[0])]
    opt = eval(calls[0], {"keras": keras})
    opt.build(p)

    def step(grads: list[np.ndarray]) -> list[np.ndarray]:
        opt.apply([torch.from_numpy(g.copy()) for g in grads], p)
        shown = opt._model_variables_moving_average if opt.use_ema else p
        return [w.value.detach().numpy().copy() for w in shown]

    return step


def with_thinc(calls: list[str], dtype: Any) -> Step:
    thinc = peer("thinc")
    importlib.import_module("thinc.api")
    opt = eval(calls[0], {"thinc": thinc})
    p = weights(dtype)

    def step(grads: list[np.ndarray]) -> list[np.ndarray]:
        for k, g in enumerate(grads):
            p[k] = opt((k, "w"), p[k], g.copy())[0]
        opt.step_schedules()
        return p

    return step


def with_mlx(calls: list[str], dtype: Any) -> Step:
    called = re.match(r"mlx\.optimizers\.(\w+)\(", calls[0])
    assert called
    opt = eval(calls[0].replace(called[0], f"Mlx('{called[1]}', "), {"Mlx": Mlx})
    opt.start(shaped(weights(dtype), calls[0]))
    step: Step = opt.step
    return step


def as_written(calls: list[str], dtype: Any) -> Step:
    p = weights(dtype)
    scope = {name: getattr(written_peers, name) for name in ("apex", "deepspeed")}
    opt = eval(calls[0], {**scope, "p": p})

    def step(grads: list[np.ndarray]) -> list[np.ndarray]:
        opt.step(p, grads)
        return p

    return step


# Which sections of the page are compared how, and in which types.
SECTIONS: dict[str, tuple[Callable[[list[str], Any], Step], Any, bool]] = {
    "torch": (with_torch, np.float64, True),
    "optax": (with_optax, np.float32, True),
    "prodigyopt": (with_torch, np.float64, True),
    "bitsandbytes": (with_torch, np.float32, True),
    "Keras": (with_keras, np.float64, True),
    "thinc": (with_thinc, np.float32, True),
    "apex": (as_written, np.float64, False),
    "DeepSpeed": (as_written, np.float64, False),
    "MLX": (with_mlx, np.float32, True),
}


def calls_of(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def rows() -> list[Any]:
    found = []
    for section in PAGE.split("\n## ")[1:]:
        name = section.splitlines()[0]
        for theirs, ours in ROW.findall(section):
            marks = [pytest.mark.peer] if SECTIONS[name][2] else []
            found.append(pytest.param(name, calls_of(theirs), calls_of(ours), id=f"{name}: {theirs}", marks=marks))
    return found


@pytest.mark.parametrize(("name", "theirs", "ours"), rows())
@by_backend
def test_both_calls_do_the_same(name: str, theirs: list[str], ours: list[str], backend: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # float64, which JAX would have to be switched to
    make, dtype, _ = SECTIONS[name]
    step, p, start = (make(theirs, dtype), *(shaped(weights(dtype), theirs[0]) for _ in range(2)))
    constructor = ours[0][:-1] + f", backend={backend!r})"
    opt = eval(constructor, {"fu": fu, "p": p})
    for call in ours[1:]:
        eval(call, {"opt": opt})
    drift = [Drift(w) for w in p]
    for k in range(STEPS):
        grads = shaped(arrays(k, dtype), theirs[0])
        expected = step(grads)
        opt.step(grads)
        for d, w, q in zip(drift, p if opt.ema is None else opt.ema, expected, strict=True):
            d.compare(w, q)
    if ours[0].startswith(OF_SUMS):
        by_sums = BY_SUMS[np.float32 if name == "Keras" else dtype]  # whose numbers are float32
        by_sums = IN_BFLOAT16 if theirs[0].startswith("torch.optim.Muon(") else by_sums
        for w, q, before in zip(p, expected, start, strict=True):
            assert (w != before).any()
            assert np.linalg.norm(w - q) <= by_sums * np.linalg.norm(w - before)
    elif "norm=" in ours[0] and name != "torch":
        for w, q in zip(p, expected, strict=True):
            np.testing.assert_allclose(w, q, rtol=0, atol=CLIPPED * np.abs(q).max())
    else:
        assert max(d.worst for d in drift) <= TOLERANCE


def test_every_row_is_read() -> None:
    """A row that the pattern above does not take for one would not be compared."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(lines) == len(rows())
    sections = {section.splitlines()[0] for section in PAGE.split("\n## ")[1:]}
    assert sections == {*SECTIONS, "Where they differ"}  # by how much: test_differences.py
