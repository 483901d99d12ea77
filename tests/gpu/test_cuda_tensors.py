"""Tensors of torch on a device: what CuPy's arrays do not have. Run by `pytest -m gpu`."""

from __future__ import annotations

import numpy as np
import pytest
from cases import assert_same_bits, random_arrays

import fastupdate as fu

pytestmark = pytest.mark.gpu
SHAPES = [(5,), (32, 33), (7, 3, 5, 4)]


@pytest.fixture
def torch():
    module = pytest.importorskip("torch", reason="needs torch with CUDA")
    if not module.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    return module


def shaped(seed: int) -> list[np.ndarray]:
    flat = random_arrays(seed, [int(np.prod(s)) for s in SHAPES], np.float32)
    return [a.reshape(s) for a, s in zip(flat, SHAPES, strict=True)]


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_narrow_gradients(kind, torch):
    """What backward leaves under autocast: no copy is made of it, and the bits are those of the widened values."""
    host, there = fu.AdamW(shaped(1), clip_norm=1.0), [torch.from_numpy(a).cuda() for a in shaped(1)]
    opt = fu.AdamW(there, clip_norm=1.0)
    for step in range(3):
        narrow = [torch.from_numpy(g).to(getattr(torch, kind)) for g in shaped(2 + step)]
        expected = host.step([g.float().numpy() for g in narrow])
        assert opt.step([g.cuda() for g in narrow]).grad_norm == expected.grad_norm
    for actual, array in zip(there, host.params, strict=True):
        assert_same_bits(actual.cpu().numpy(), array, "weights")


def test_channels_last(torch):
    """Dense tensors in another order than C's, with gradients that lie alike and gradients that do not."""
    host = fu.Adam(shaped(1), monitor=True)
    there = [torch.from_numpy(a).cuda() for a in shaped(1)]
    there[2] = there[2].to(memory_format=torch.channels_last)
    opt = fu.Adam(there, monitor=True)
    for step in range(4):
        grads = [torch.from_numpy(g).cuda() for g in shaped(2 + step)]
        if step % 2:
            grads[2] = grads[2].to(memory_format=torch.channels_last)
        expected, report = host.step(shaped(2 + step)), opt.step(grads)
        for field in report.tensors.dtype.names[1:]:
            assert_same_bits(report.tensors[field], expected.tensors[field], field)
    for actual, array in zip(there, host.params, strict=True):
        assert_same_bits(actual.cpu().numpy(), array, "weights")


def test_a_network_learns_as_with_torch(torch):
    """Backward passes between the steps: weights within a few roundings of torch's own AdamW."""
    torch.manual_seed(0)
    x, y = torch.randn(256, 20, device="cuda"), torch.randn(256, 1, device="cuda")
    losses = {}
    for ours in (True, False):
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)).cuda()
        params = list(model.parameters())
        opt = (fu.AdamW if ours else torch.optim.AdamW)(params, lr=1e-2, weight_decay=0.1)
        losses[ours] = []
        for _ in range(30):
            for p in params:
                p.grad = None
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
            opt.step([p.grad for p in params]) if ours else opt.step()
            losses[ours].append(loss.item())
    assert losses[True][-1] < 0.8 * losses[True][0]
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-4)


def test_parameters_of_a_graph_are_refused_afterwards(torch):
    """Autograd hears that a parameter was written."""
    p = torch.nn.Parameter(torch.ones(4, device="cuda"))
    saved = (p * p).sum()
    fu.SGD([p], lr=0.1).step([torch.ones(4, device="cuda")])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.backward()


def test_a_list_of_thousands(torch):
    """One launch for all of them, tensor by tensor the bytes of the CPU."""
    sizes = [1 + k % 70 for k in range(5000)]
    host = fu.AdamW(random_arrays(1, sizes, np.float32), clip_norm=1.0)
    there = [torch.from_numpy(a).cuda() for a in random_arrays(1, sizes, np.float32)]
    opt = fu.AdamW(there, clip_norm=1.0)
    for step in range(2):
        grads = random_arrays(2 + step, sizes, np.float32)
        opt.step([torch.from_numpy(g).cuda() for g in grads])
        host.step(grads)
    assert_same_bits(torch.cat(there).cpu().numpy(), np.concatenate(host.params), "weights")
