"""numba-cuda on a device, where tests/test_numba_cuda.py has its simulator: the bytes of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import PRODUCT, arrays_of, assert_same_bits, random_arrays
from device_arrays import FakeArray, run_python
from test_numba_cuda import ADAMW, LAMB, RUNS, SHAPES, Run, outcome

import fastupdate as fu
from fastupdate.engines import choose
from fastupdate.rules.adamw import AdamW

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(choose.numba_cuda_problem() is not None, reason=str(choose.numba_cuda_problem())),
]


# Kernels of each rule are compiled, which takes longer than all else: FASTUPDATE_TEST_PRODUCT=1 for every rule.
CHOSEN = RUNS if PRODUCT else [run for run in RUNS if run.case in (ADAMW, LAMB)]


@fu.rule
class OwnAdamW(AdamW):
    """The text of a built-in."""


@pytest.mark.parametrize("run", CHOSEN, ids=str)
def test_bytes_of_the_cpu(run):
    assert_same(outcome(run, FakeArray, "numba-cuda"), outcome(run, lambda a: a, None))


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert_same_bits(actual[name], values, name)


ALONE = """
import sys, warnings
sys.modules["fastupdate._cuda"] = None  # importing it fails
import numpy as np, cupy
from test_numba_cuda import ADAMW, SHAPES, Run, outcome
warnings.filterwarnings("ignore", message="fastupdate runs on numba-cuda")
np.savez(sys.argv[1], **outcome(Run(ADAMW, "stages", "f4f8", SHAPES), cupy.asarray, None))
"""


def test_where_the_native_module_is_missing(tmp_path):
    """numba-cuda's own memory and copies."""
    pytest.importorskip("cupy", reason="needs cupy")
    done = run_python("-c", ALONE, str(tmp_path / "left.npz"))
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(tmp_path / "left.npz") as left:
        assert_same(dict(left), outcome(Run(ADAMW, "stages", "f4f8", SHAPES), lambda a: a, None))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_rule_of_ones_own(dtype, framework):
    """On device arrays it runs as the built-in of the same text does on the CPU."""
    params, *steps = [random_arrays(k, [5, 1024, 70_001], dtype) for k in range(4)]
    options = {"lr": fu.schedules.cosine(0.1, 5), "weight_decay": 0.1, "clip_norm": 3.0, "monitor": True}
    host = fu.AdamW([a.copy() for a in params], **options)
    there = OwnAdamW([framework.array(a) for a in params], **options)
    assert "numba-cuda" in repr(there)
    for grads in steps:
        assert there.step([framework.array(g) for g in grads]).grad_norm == host.step(grads).grad_norm
    kept = {kind: [a.copy() for a in arrays] for kind, arrays in arrays_of(there).items()}
    for (kind, actual), expected in zip(kept.items(), arrays_of(host).values(), strict=True):
        assert_same_bits(actual, expected, kind)


def test_the_current_stream(framework):
    """Kernels follow what the current stream holds."""
    p, g = framework.empty(1 << 20), framework.empty(1 << 20)
    opt = fu.SGD([p], lr=1.0, backend="numba-cuda")
    framework.synchronize()
    with framework.on(framework.stream()):
        framework.busy()
        framework.fill(g, 2.0)  # late
        opt.step([g])
    framework.synchronize()
    assert float(p[0]) == float(p[-1]) == -2.0


@pytest.mark.parametrize("backend", ["cuda", "numba-cuda"])
def test_misaligned_arrays(backend):
    """Which a device can access by bytes alone."""
    params, *steps = [random_arrays(k, [5, 1030], np.float32) for k in range(3)]
    host = fu.AdamW([a.copy() for a in params], zero_grads=True)
    there = [FakeArray(a, offset=2) for a in params]
    opt = fu.AdamW(there, zero_grads=True, backend=backend)
    for step in steps:
        grads = [FakeArray(g, offset=1) for g in step]
        opt.step(grads)
        host.step(step)
        assert not any(g.get().any() for g in grads)
    for actual, expected in zip(there, host.params, strict=True):
        assert_same_bits(actual.get(), expected, "weights")
