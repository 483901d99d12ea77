"""Faults put into the kernels by hand: the stand-in must show each of them, or comparing bytes on it proves nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import device_arrays
import pytest
from cases import PRODUCT
from device_arrays import BUILD, CSRC, SHIM

RULE = "adam"
# file, text, what it becomes, order of the threads (cuda_shim/device_shim.cpp) that shows it
FAULTS = {
    "none": ("cuda/blocks.cuh", "first + kQuad <= here", "first + kQuad <= here", 0),
    "tail too long": ("cuda/blocks.cuh", "first + kQuad <= here", "first + kQuad <= here + 3", 0),
    "tail too short": ("cuda/blocks.cuh", "if (e < here)", "if (e + 1 < here)", 0),
    "alignment not looked at": ("cuda/blocks.cuh", "(array + uint64_t(head) * sizeof(T)) % bytes == 0", "bytes", 0),
    "no barrier before a block is summed": ("cuda/engine.cuh", "stalled;\n  barrier();", "stalled;", 0),
    "no barrier before warps are folded": ("cuda/kernels.cu", "&nonfinite[k]);\n  barrier();", "&nonfinite[k]);", 0),
    "no barrier between levels of a fold": ("cuda/sums.cuh", "= x[0];\n    }\n    barrier();", "= x[0];\n    }", 0),
    "lanes folded the other way": ("cuda/sums.cuh", "distance = kLanes / 2; distance; distance /= 2",
                                   "distance = 1; distance < kLanes; distance *= 2", 0),
    "fold of neighbours skipped": ("cuda/sums.cuh", "w = 1; w < kRadix", "w = 2; w < kRadix", 0),
}  # fmt: skip
FLAGS = ["-std=gnu++17", "-fPIC", "-fvisibility=hidden", "-O1", "-ffp-contract=off", "-fopenmp-simd"]

CHECK = """if True:
    import sys, pathlib, device_arrays
    stand_in = device_arrays.installed(pathlib.Path(sys.argv[1]))
    stand_in.__enter__().set_schedule(int(sys.argv[2]))
    import numpy as np, fastupdate as fu
    from cases import random_arrays, same_bits
    from device_arrays import FakeArray
    sizes = [1, 6, 1023, 1025, 50 * 1024 + 7]
    params, grads = random_arrays(1, sizes, np.float32), random_arrays(2, sizes, np.float32)
    options = {"clip_norm": 1.0, "monitor": True}
    host = fu.Adam([p.copy() for p in params], **options)
    there = fu.Adam([FakeArray(p) for p in params], **options)
    for offset in (0, 4):
        expected, actual = host.step(grads), there.step([FakeArray(g, offset=offset) for g in grads])
        assert repr(actual) == repr(expected)
        for name in expected.tensors.dtype.names[1:]:
            assert same_bits(actual.tensors[name], expected.tensors[name]) is None, name
    for a, b in zip(host.stepper.items, there.stepper.items, strict=True):
        for (x, name), (y, _) in zip(a.arrays(), b.arrays(), strict=True):
            assert same_bits(y.fetch(), x) is None, name
    print("same")
"""


# One rule in one compute type: a fifth of the kernels, and fewer still, of a build of it.
SOURCE = f"""
#include "cuda/rule_kernels.cuh"
#include "rules/{RULE}.h"
namespace fastupdate::cuda {{
using Rule = {RULE}<float, 0>;
constexpr DeviceCode code = code_of<Rule, float>();
constexpr DeviceVariant variant = {{{{code, code}}, code.update}};
extern const DeviceRule {RULE}_entry;
const DeviceRule {RULE}_entry = {{"{RULE}", Rule::hyper_names, Rule::flag_names, Rule::state_names, &variant}};
}}
"""
ENGINE = "cuda/kernels.cu"
INCLUDED_BY = {"cuda/kernels.cu": [ENGINE]}  # the others by both


def compile_mutant(folder: Path, file: str, old: str, new: str) -> Path:
    """The stand-in with one text of the kernels replaced; only what that text is part of is compiled."""
    csrc = Path(shutil.copytree(CSRC, folder / "csrc"))
    text = (csrc / file).read_text()
    assert text.count(old) == 1, f"{file} no longer holds {old!r} once"
    (csrc / file).write_text(text.replace(old, new))
    (csrc / RULE).write_text(SOURCE)
    mutated = []
    for source in INCLUDED_BY.get(file, [ENGINE, RULE]):
        mutated.append(folder / f"{Path(source).stem}.cu.o")
        include = [f"-I{path}" for path in (csrc, SHIM, BUILD / "generated")]
        run(["c++", *FLAGS, "-DFASTUPDATE_TARGET=cuda", *include, "-xc++", "-c", csrc / source, "-o", mutated[-1]])
    others = [o for o in BUILD.rglob("*.o") if o.name not in {m.name for m in mutated}]
    module = folder / "_cuda.so"
    run(["c++", "-shared", *mutated, *others, "-o", module])
    return module


def run(command: list[object]) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[subprocess.CompletedProcess[str]]]:
    """What each fault leads to, found out side by side."""
    device_arrays.build(BUILD)
    folder = tmp_path_factory.mktemp("mutants")

    def outcome(fault: str) -> subprocess.CompletedProcess[str]:
        file, old, new, schedule = FAULTS[fault]
        module = compile_mutant(folder / fault.replace(" ", "_"), file, old, new)
        return device_arrays.run_python("-c", CHECK, str(module), str(schedule))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {fault: pool.submit(outcome, fault) for fault in FAULTS}


@pytest.mark.skipif(not PRODUCT, reason="each night: FASTUPDATE_TEST_PRODUCT=1")
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_show(fault, outcomes):
    done = outcomes[fault].result()
    assert ("same" in done.stdout) == (fault == "none"), done.stderr
