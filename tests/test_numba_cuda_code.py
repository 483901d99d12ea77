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
from cases import FIRST_CASES, PHASED, Case, by_dtype, cases_of
from peers import peer

import fastupdate as fu
from fastupdate.stages import MEASURING


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


@pytest.mark.peer
@pytest.mark.parametrize("name", ["gradient_sums", "accumulate", "unit_norms", "exchange"])
@by_dtype
def test_kernels_round_as_written(name, dtype, to_ptx):
    from fastupdate.engines.python import cuda_driver, cuda_kernels

    with cuda_driver.contraction_off():
        ptx = to_ptx(getattr(cuda_kernels, name), cuda_kernels.signature(name, np.dtype(dtype)))
    cuda_driver.check_arithmetic(ptx)
    assert "mul.rn.f64" in ptx or name in ("accumulate", "exchange")


@pytest.mark.peer
@pytest.mark.parametrize("case", FIRST_CASES, ids=str)
def test_rules_round_as_written(case, to_ptx):
    """In float32, and that no constant widens it: the only float64 roots are of norms, which this kernel has not."""
    ptx = rule_ptx(case, np.float32, to_ptx, contract=False)
    from fastupdate.engines.python import cuda_driver

    cuda_driver.check_arithmetic(ptx)
    assert "mul.rn.f32" in ptx
    assert "sqrt.rn.f64" not in ptx
    assert "div.rn.f64" not in ptx


@pytest.mark.peer
def test_contraction_would_be_noticed(to_ptx):
    from fastupdate.engines.python import cuda_driver

    ptx = rule_ptx(FIRST_CASES[0], np.float32, to_ptx, contract=True)
    with pytest.raises(RuntimeError, match="contracts floating-point operations"):
        cuda_driver.check_arithmetic(ptx)


def rule_ptx(case: Case, dtype: Any, to_ptx: Callable[..., str], contract: bool) -> str:
    from fastupdate.engines.python import cuda_driver, cuda_engine, cuda_kernels

    opt = case.make([np.zeros(1, dtype)])
    kernel = cuda_engine.kernel_of("update", opt.rule, opt.rule.mask(opt.stepper.flags), np.dtype(dtype), None)
    with nullcontext() if contract else cuda_driver.contraction_off():
        return to_ptx(kernel, cuda_kernels.signature("update", np.dtype(dtype)))


@pytest.mark.peer
@pytest.mark.parametrize("case", [cases_of(name)[-1] for name in PHASED], ids=str)
@by_dtype
def test_phases_round_as_written(case, dtype, to_ptx):
    from fastupdate.engines.python import cuda_driver, cuda_engine, cuda_kernels, measuring

    opt = case.make([np.zeros((1, 1), dtype)])
    mask = opt.rule.mask(opt.stepper.flags)
    for number in range(len(opt.rule.phases)):
        phase = measuring.of_phase(opt.rule, mask, number)
        kernel = cuda_engine.kernel_of("measure", opt.rule, mask, np.dtype(dtype), phase)
        with cuda_driver.contraction_off():
            ptx = to_ptx(kernel, cuda_kernels.signature("measure", np.dtype(dtype)))
        cuda_driver.check_arithmetic(ptx)
        assert "add.rn.f64" in ptx or not phase.terms  # rules of matrices sum nothing


@pytest.mark.peer
@pytest.mark.parametrize("stage", MEASURING, ids=lambda stage: stage.name)
def test_stages_that_measure_round_as_written(stage, to_ptx):
    from fastupdate.engines.python import cuda_driver, cuda_engine, cuda_kernels, measuring

    rule, x = fu.AdamW.rule, np.dtype(np.float32)
    kernel = cuda_engine.kernel_of("measure", rule, 0, x, measuring.of_stage(stage))
    with cuda_driver.contraction_off():
        ptx = to_ptx(kernel, cuda_kernels.signature("measure", x))
    cuda_driver.check_arithmetic(ptx)
    assert "add.rn.f64" in ptx


@pytest.mark.peer
@pytest.mark.parametrize(("name", "accessed"), [("clear_gradients", "st"), ("unit_norms", "ld"), ("accumulate", "ld")])
def test_arrays_that_may_be_misaligned_are_accessed_by_bytes(name, accessed, to_ptx):
    """A device cannot do otherwise; those without a layout are accessed at once."""
    from fastupdate.engines.python import cuda_kernels

    ptx = to_ptx(getattr(cuda_kernels, name), cuda_kernels.signature(name, np.dtype(np.float32)))
    assert len(re.findall(rf"\b{accessed}\.(?:global\.)?[bu]8\b", ptx)) > 10  # records have fewer fields of a byte
    assert re.search(rf"\b{accessed}\.(?:global\.)?[bfu]32\b", ptx)
