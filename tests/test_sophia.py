"""Sophia beside pytorch_optimizer's, with the same estimates of the curvature every third step."""

from __future__ import annotations

import pytest
from cases import by_backend, by_dtype, moderate_arrays
from peers import peer
from tolerances import PEER, Drift

import fastupdate as fu

pytest.importorskip("fastupdate.rules.sophia", reason="a build of few rules, without Sophia")

SIZES = [1, 33, 1025]


@pytest.mark.peer
@by_backend
@by_dtype
def test_curvature_that_the_user_writes_is_divided_by(backend: str, dtype: type) -> None:
    torch = peer("torch")
    params = moderate_arrays(1, SIZES, dtype)
    theirs = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    their = peer("pytorch_optimizer").SophiaH(
        theirs, lr=0.02, betas=(0.8, 0.9), weight_decay=0.3, p=0.7, eps=0.5, update_period=10**6
    )
    opt = fu.Sophia(params, lr=0.02, beta1=0.8, gamma=1.0, rho=0.7, eps=0.5, weight_decay=0.3, backend=backend)
    drift, clipped = [Drift(p) for p in params], 0
    for k in range(12):
        grads = moderate_arrays(20 + k, SIZES, dtype)
        estimates = moderate_arrays(60 + k, SIZES, dtype)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.tensor(g)
        if k % 3 == 0:
            for h, estimate in zip(opt.state["hessian"], estimates, strict=True):
                h += dtype(1 - 0.9) * (estimate - h)
        before = [p.copy() for p in params]
        their.step(hessian=[torch.tensor(e) for e in estimates] if k % 3 == 0 else None)
        opt.step(grads)
        clipped += sum(int((abs(p - q + 0.006 * q) > 0.0139).sum()) for p, q in zip(params, before, strict=True))
        for d, p, q in zip(drift, params, theirs, strict=True):
            d.compare(p, q.detach().numpy())
    assert max(d.worst for d in drift) <= PEER
    assert 0.1 < clipped / (12 * sum(SIZES)) < 0.9
