"""Sparse gradients of torch's: embeddings, and torch's SparseAdam."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from peers import file_needs, peer
from tolerances import PEER, Drift
from torch_cases import torch

import fastupdate as fu

pytestmark = pytest.mark.peer
file_needs("torch")

STEPS, SHAPE = 12, (23, 33)
DTYPES = ["float32", "float64"]


@pytest.fixture(autouse=True)
def _torch_there() -> None:
    peer("torch")


def sparse(k: int, dtype: Any, coalesced: bool) -> Any:
    """The gradient of step k, which names some rows several times."""
    generator = torch.Generator().manual_seed(k)
    indices = torch.randint(SHAPE[0], (17,), generator=generator)
    values = torch.randn((17, *SHAPE[1:]), dtype=dtype, generator=generator) + 0.1
    grad = torch.sparse_coo_tensor(indices[None], values, SHAPE, check_invariants=True)
    return grad.coalesce() if coalesced else grad


def start(dtype: Any) -> Any:
    return torch.nn.Parameter(torch.randn(SHAPE, dtype=dtype, generator=torch.Generator().manual_seed(99)))


@pytest.mark.parametrize("coalesced", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sparse_adam_goes_the_way_of_torch(dtype: str, coalesced: bool) -> None:
    """Saved and loaded by each other in the middle of the run, too."""
    arguments = {"lr": 0.01, "betas": (0.85, 0.97), "eps": 1e-6}
    ours, theirs = start(getattr(torch, dtype)), start(getattr(torch, dtype))
    opt, beside = fu.torch.SparseAdam([ours], **arguments), torch.optim.SparseAdam([theirs], **arguments)
    drift = Drift(ours.detach().numpy())
    for k in range(STEPS):
        if k == STEPS // 2:
            saved, saved_beside = copy.deepcopy(opt.state_dict()), copy.deepcopy(beside.state_dict())
            beside.load_state_dict({**saved, "param_groups": saved_beside["param_groups"]})
            opt.load_state_dict({**saved_beside, "param_groups": saved["param_groups"]})
        for p, optimizer in ((ours, opt), (theirs, beside)):
            p.grad = sparse(k, getattr(torch, dtype), coalesced)
            optimizer.step()
        drift.compare(ours.detach().numpy(), theirs.detach().numpy())
    assert drift.worst <= PEER
    assert ours._version == STEPS


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_trained_embedding(dtype: str) -> None:
    """Sparse gradients of few rows beside dense ones of other layers, by the dense equivalent: torch's dense Adam."""
    models = []
    for is_sparse in (True, False):
        torch.manual_seed(0)
        table = torch.nn.Embedding(50, 8, sparse=is_sparse)
        model = torch.nn.Sequential(table, torch.nn.Flatten(), torch.nn.Linear(24, 1)).to(getattr(torch, dtype))
        opt = fu.torch.Adam(model.parameters(), lr=0.01, weight_decay=0.03, clip_norm=0.5)
        for k in range(5):
            tokens = torch.randint(50, (16, 3), generator=torch.Generator().manual_seed(k))
            opt.zero_grad()
            model(tokens).square().sum().backward()
            assert table.weight.grad.is_sparse == is_sparse
            opt.step()
        models.append([p.detach().numpy() for p in model.parameters()])
    for ours, theirs in zip(*models, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4 if dtype == "float32" else 1e-12)


def test_rows_of_a_model_that_rest() -> None:
    table = torch.nn.Embedding(50, 8, sparse=True)
    before = table.weight.detach().clone()
    opt = fu.torch.AdamW(table.parameters(), lr=0.01, weight_decay=0.3, rows="lazy")
    for tokens in ([3, 3, 7], [7, 49, 3]):
        opt.zero_grad()
        table(torch.tensor(tokens)).sum().backward()
        opt.step()
    moved = (table.weight.detach() != before).all(dim=1)
    assert moved.nonzero().flatten().tolist() == [3, 7, 49]
    assert not opt.state[table.weight]["exp_avg"][~moved].any()
    assert opt.state[table.weight]["step"] == 2


def test_a_first_step_with_a_rate_of_zero_is_one_where_there_is_a_gradient() -> None:
    """Without one it is dry: nothing but states is wanted."""
    counts = []
    for value in (0.0, 1.0):
        p = start(torch.float32)
        opt = fu.torch.Adam([p], lr=0.0)
        p.grad = torch.sparse_coo_tensor([[1, 1]], torch.full((2, SHAPE[1]), value), SHAPE, check_invariants=True)
        opt.step()
        counts.append(int(opt.state[p]["step"]))
    assert counts == [0, 1]


def test_what_is_refused_changes_nothing() -> None:
    p = torch.nn.Parameter(torch.ones(4, 2))
    opt = fu.torch.SparseAdam([p])
    for grad, error, message in (
        (torch.eye(4)[:, :2].to_sparse(), ValueError, "expected a sparse tensor of rows"),
        (
            torch.sparse_coo_tensor([[1]], torch.ones(1, 2, dtype=torch.float64), (4, 2), check_invariants=True),
            TypeError,
            "float32",
        ),
    ):
        p.grad = None
        with pytest.raises(error, match=message):
            fu.SparseAdam([p]).step([grad])
    assert (p == 1).all()
    assert not opt.state


def test_arrays_of_torch_as_rows() -> None:
    values, indices = torch.ones(2, 3), torch.tensor([4, 1], dtype=torch.int32)
    found = []
    for gradient in (fu.Rows(indices, values), (indices, values), fu.Rows(indices.numpy(), values.numpy())):
        p = torch.nn.Parameter(torch.ones(5, 3))
        fu.Adam([p], rows="lazy").step([gradient])
        found.append(p.detach().numpy().tobytes())
    assert len(set(found)) == 1
