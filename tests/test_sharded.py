"""fastupdate.torch on several ranks (gloo): the bits are those of one process that has whole tensors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from peers import peer
from ranks import check_all

pytestmark = pytest.mark.peer

MODULES = ("sharded_steps", "sharded_sums", "sharded_phases", "sharded_saving")


@pytest.mark.parametrize("module", MODULES)
def test_the_same_bits_on_any_number_of_ranks(module: str, tmp_path: Path) -> None:
    peer("torch")
    check_all(module, tmp_path)


def test_the_example_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    peer("torch")
    example = Path(__file__).parents[1] / "examples" / "sharded.py"
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    for ranks, step in ((2, 40), (1, 80)):
        command = [*run, str(ranks), str(example), "--directory", str(tmp_path / "run")]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=env, timeout=300)
        assert done.returncode == 0, done.stderr
        first, second = done.stdout.splitlines()
        assert first.startswith(f"step {step}: ")
        assert second.startswith(f"{1 / ranks:.0%} of the first layer")
