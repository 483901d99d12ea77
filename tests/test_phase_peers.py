"""Rules whose step depends on sums move weights as their peers do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Case, cases_of
from peers import peer
from phased import gradients, problem


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


PEERS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "adafactor of torch": (
        lambda **kwargs: torch_peer("Adafactor", **kwargs),
        {"weight_decay": 0.1, "eps": (2.0**-52, 1e-3)},
        {"weight_decay": 0.1},
    ),
    "adafactor of torch, clipped": (
        lambda **kwargs: torch_peer("Adafactor", **kwargs),
        {"lr": 0.3, "d": 1.5, "beta2_decay": -0.5, "eps": (1e-4, 0.1)},
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
