"""What numba-cuda would run on a device contracts nothing, by what its compiler writes for one that is not there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cases import FIRST_CASES, PHASED, by_dtype, cases_of
from peers import peer

import fastupdate as fu
from fastupdate.rules.rule import POSITIVE, Hyper, State, scalars
from fastupdate.stages import MEASURING, STAGES


@pytest.fixture
def to_ptx(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Compiles a kernel for a device that is not there; that takes libNVVM alone."""
    peer("numba_cuda")
    nvcc = shutil.which("nvcc")
    if "CUDA_HOME" not in os.environ and nvcc:
        found = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True, check=False).stderr
        monkeypatch.setenv("CUDA_HOME", next(s.partition("TOP=")[2] for s in found.splitlines() if "TOP=" in s))
    from numba import cuda
    from numba.cuda import cuda_paths, dispatcher
    from numba.cuda.cudadrv import nvrtc, nvvm

    monkeypatch.setattr(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=(9, 0)))
    monkeypatch.setattr(nvrtc, "get_arch_option", lambda *_: "compute_90")
    monkeypatch.setattr(cuda_paths, "_get_nvrtc_path", lambda: None)
    try:
        nvvm.NVVM()
    except Exception as error:
        pytest.skip(f"libNVVM (of the CUDA toolkit) cannot be loaded: {str(error).splitlines()[0]}")
    return lambda function, signature: str(cuda.compile_ptx(function, signature, cc=(9, 0))[0])


def ptx_of(to_ptx: Callable[..., str], work: str, dtype: Any, functions: tuple[Any, ...] = (), off: bool = True) -> str:
    """A kernel for a dtype, which calls these functions; off: as it runs, without contraction."""
    from fastupdate.engines.python import cuda_driver, cuda_kernels, kernels, phases

    found = getattr(kernels if hasattr(kernels, work) else phases, work), np.dtype(dtype), functions
    with cuda_driver.exactly() if off else nullcontext():
        ptx = to_ptx(cuda_kernels.kernel_of(*found), cuda_kernels.signature(*found))
    if off:
        cuda_driver.check_arithmetic(ptx)
    return ptx


def loops_of(opt: fu.Optimizer, dtype: Any, phase: Any = None) -> tuple[Any, ...]:
    """What the kernels call that move tensors, or measure by a phase."""
    from fastupdate.engines.python import loops
    from fastupdate.engines.python.cuda_kernels import DEVICE

    rule, mask, x = opt.rule, opt.rule.mask(opt.stepper.flags), np.dtype(dtype)
    own = (loops.rule_loop(DEVICE, rule, mask, x),) if phase is None else phase.loops(DEVICE, rule, mask, x)
    return (*own, loops.stage_loops(DEVICE, x))


@pytest.mark.peer
@pytest.mark.parametrize("name", ["gradient_sums", "accumulate", "unit_norms"])
@by_dtype
def test_kernels_round_as_written(name, dtype, to_ptx):
    ptx = ptx_of(to_ptx, name, dtype)
    assert "mul.rn.f64" in ptx or name == "accumulate"


@pytest.mark.peer
@pytest.mark.parametrize("case", FIRST_CASES, ids=str)
def test_rules_round_as_written(case, to_ptx):
    """In float32, and that no constant widens it: the only float64 roots are of norms, which this kernel has not."""
    ptx = ptx_of(to_ptx, "update", np.float32, loops_of(case.make([np.zeros(1, np.float32)]), np.float32))
    assert "mul.rn.f32" in ptx
    assert "sqrt.rn.f64" not in ptx
    assert "div.rn.f64" not in ptx


@fu.rule
class Noting:
    "Descends, and writes to a state that it never reads. Source: none."

    lr = Hyper(0.1, POSITIVE, "")
    noted = State("gradient of the last step")

    @staticmethod
    def prepare(h, t):
        return scalars(lr=h.lr)

    @staticmethod
    def update(flags, s, g, p, noted):
        noted = g
        return -s.lr * g, noted


@pytest.mark.peer
def test_arrays_are_written_at_once(to_ptx):
    """Those that are only written too: numba-cuda's compiler drops stores to what it takes for unused."""

    def stores(rule: Any) -> int:
        ptx = ptx_of(to_ptx, "update", np.float32, loops_of(rule([np.zeros(1, np.float32)]), np.float32))
        return len(re.findall(r"\bst\.(?:global\.)?[bfu]32\b", ptx))

    lasting = [stage for stage in STAGES if stage.array and stage.state.per == "element"]
    assert stores(fu.SGD) == 2 + len(lasting)  # weights, and gradients that are zeroed
    assert stores(Noting) == 3 + len(lasting)


@pytest.mark.peer
def test_contraction_would_be_noticed(to_ptx):
    from fastupdate.engines.python import cuda_driver

    opt = FIRST_CASES[0].make([np.zeros(1, np.float32)])
    ptx = ptx_of(to_ptx, "update", np.float32, loops_of(opt, np.float32), off=False)
    with pytest.raises(RuntimeError, match="contracts floating-point operations"):
        cuda_driver.check_arithmetic(ptx)


@pytest.mark.peer
@pytest.mark.parametrize("case", [cases_of(name)[-1] for name in PHASED], ids=str)
@by_dtype
def test_phases_round_as_written(case, dtype, to_ptx):
    from fastupdate.engines.python import loops
    from fastupdate.engines.python.cuda_kernels import DEVICE

    opt = case.make([np.zeros((1, 1), dtype)])
    for phase in (loops.of_phase(opt.rule, k) for k in range(len(opt.rule.phases))):
        if phase.measures:
            ptx = ptx_of(to_ptx, "measure", dtype, loops_of(opt, dtype, phase))
            assert "add.rn.f64" in ptx
        *of_ranges, of_list = phase.settles(DEVICE, opt.rule, opt.rule.mask(opt.stepper.flags))
        ptx_of(to_ptx, "settle", dtype, tuple(of_ranges))
        ptx_of(to_ptx, "settle_list", dtype, (of_list,))


@pytest.mark.peer
@pytest.mark.parametrize("stage", MEASURING, ids=lambda stage: stage.name)
def test_stages_that_measure_round_as_written(stage, to_ptx):
    from fastupdate.engines.python import loops

    opt = fu.AdamW([np.zeros(1, np.float32)])
    assert "add.rn.f64" in ptx_of(to_ptx, "measure", np.float32, loops_of(opt, np.float32, loops.of_stage(stage)))


@pytest.mark.peer
@pytest.mark.parametrize(("name", "accessed"), [("clear_gradients", "st"), ("unit_norms", "ld"), ("accumulate", "ld")])
def test_arrays_that_may_be_misaligned_are_accessed_by_bytes(name, accessed, to_ptx):
    """A device cannot do otherwise; those without a layout are accessed at once."""
    ptx = ptx_of(to_ptx, name, np.float32)
    fields = 2 if accessed == "ld" else 0  # of the records, of a byte
    assert len(re.findall(rf"\b{accessed}\.(?:global\.)?[bu]8\b", ptx)) >= 4 + 2 + fields  # a float32, a narrow value
    assert re.search(rf"\b{accessed}\.(?:global\.)?[bfu]32\b", ptx)
