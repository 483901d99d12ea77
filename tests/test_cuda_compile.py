"""What nvcc makes of the kernels is looked at, and what would be wrong with it is seen. Needs nvcc and no GPU."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from peers import REQUIRED

SCRIPTS = Path(__file__).parents[1] / "scripts"

spec = importlib.util.spec_from_file_location("cuda_code", SCRIPTS / "cuda_code.py")
assert spec is not None
assert spec.loader is not None
cuda_code = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cuda_code)


@pytest.mark.peer
def test_the_oldest_architecture_compiles():
    """CI compiles all rules for another one, as a step of its own."""
    if shutil.which("nvcc") is None:
        (pytest.fail if REQUIRED else pytest.skip)("nvcc is not on PATH: no kernel was compiled")
    environment = {
        name: value for name, value in os.environ.items() if name != "LD_PRELOAD"
    }  # sanitizers are not for nvcc
    command = [SCRIPTS / "cuda_compile_check.sh", "sm_75", "momentum"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "registers  " in done.stdout
    assert "no spills, no contraction" in done.stdout


LOG = """
ptxas info    : Compiling entry function 'k' for 'sm_90'
ptxas info    : Function properties for k
    0 bytes stack frame, {spilt} bytes spill stores, {spilt} bytes spill loads
ptxas info    : Used 54 registers, used 0 barriers
"""


def test_spills_are_seen(capsys):
    assert list(cuda_code.read_log(LOG.format(spilt=0))) == []
    assert capsys.readouterr().out == "  54 registers  k\n"
    assert [fault.split(":")[0] for fault in cuda_code.read_log(LOG.format(spilt=8))] == ["k spills"]


def test_contraction_is_seen():
    ptx = ".visible .entry a(\nmul.f32 %f1;\n.visible .entry b(\nfma.rn.f32 %f1;\n"
    assert list(cuda_code.read_ptx(ptx)) == ["b: fused multiply-add"]


@pytest.mark.parametrize(
    ("name", "loads", "stores", "fine"),
    [
        ("plain_updateIfLj0E", 4, 3, True),
        ("plain_updateIfLj0E", 3, 3, False),  # a load of fewer bytes
        ("plain_updateIfLj0E", 0, 0, False),
        ("plain_updateIdLj0E", 8, 6, True),
        ("plain_updateIdLj0E", 8, 7, False),
        ("full_updateIfLj0E", 6, 6, True),
        ("full_updateIfLj0E", 6, 5, False),
        ("mixed_updateINS0_4adamELj0E", 18, 18, True),
        ("mixed_updateINS0_4adamELj0E", 14, 18, False),
        ("full_updateINS0_4lambIfLj0EEEfE", 7, 5, True),  # its two means are only read
        ("full_updateINS0_4lambIfLj0EEEfE", 7, 8, False),
        ("full_updateINS0_4lambIfLj0EEEfE", 7, 3, False),
        ("fold_sums", 0, 0, True),
    ],
)
def test_narrow_accesses_are_seen(name, loads, stores, fine, tmp_path):
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "lamb.h").write_text("FASTUPDATE_STATES(m, v, trust);\nchanges[] = {1 << 0 | 1 << 1, 0};\n")
    load, store = "  LDG.E.128.STRONG.GPU R4, [R2] ;\n", "  STG.E.128.STRONG.GPU [R2], R4 ;\n"
    code = f"\t.section\t.text.{name},\n" + load * loads + "  LDG.E R1, [R2] ;\n" + store * stores
    assert (list(cuda_code.read_machine_code(code, tmp_path)) == []) == fine
