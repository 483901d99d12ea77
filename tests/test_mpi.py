"""fastupdate.sharded on several ranks of MPI: the bits are those of one process that has all states."""

from __future__ import annotations

from pathlib import Path

import pytest
from mpi_ranks import check_all, mpiexec
from peers import peer

pytestmark = pytest.mark.peer

MODULES = ("mpi_steps", "mpi_faults", "mpi_saving")


@pytest.mark.parametrize("module", MODULES)
def test_the_bits_of_one_process_on_any_number_of_ranks(module: str, tmp_path: Path) -> None:
    peer("mpi4py")
    check_all(module, tmp_path)


DYING = """
import os, sys
import numpy as np
from mpi4py import MPI
import fastupdate as fu

params = {"w": np.ones((600, 700), np.float32)}
opt = fu.sharded.AdamW(params, MPI.COMM_WORLD)
opt.step({"w": np.ones((600, 700), np.float32)})
opt.save(sys.argv[1])
opt.step({"w": np.ones((600, 700), np.float32)})
if MPI.COMM_WORLD.rank == 1:
    os._exit(3)
opt.save(sys.argv[1])
print("saved")
"""


def test_a_rank_that_dies_ends_the_others_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    peer("mpi4py")
    script, path = tmp_path / "dying.py", tmp_path / "run.fu"
    script.write_text(DYING)
    done = mpiexec(2, str(script), str(path))
    assert done.returncode != 0
    assert "saved" not in done.stdout
    from fastupdate import load

    assert load(path)["step"] == 1
    assert [each.name for each in tmp_path.iterdir() if each != script] == ["run.fu"]
