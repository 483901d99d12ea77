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


def test_the_example_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    """On 2 and then 3 ranks, and on 1 all the way."""
    peer("mpi4py")
    example, said = str(Path(__file__).parents[1] / "examples" / "mpi.py"), {}
    for run, ranks in [("shared", 2), ("shared", 3), ("alone", 1), ("alone", 1)]:
        (tmp_path / run).mkdir(exist_ok=True)
        done = mpiexec(ranks, example, "--directory", str(tmp_path / run))
        assert done.returncode == 0, done.stderr
        *said[run], second = done.stdout.splitlines()
        assert second.endswith(f"of the states are on the first of {ranks} ranks")
    assert said["shared"] == said["alone"]
    assert said["alone"][0].startswith("step 80: ")


def test_the_demo_trains_alike_on_any_number_of_ranks(tmp_path: Path) -> None:
    """The table without its times; without pieces the batches are cut otherwise, and so are the weights."""
    for name in ("mpi4py", "sklearn", "matplotlib"):
        peer(name)
    tables = {}
    for ranks, options in [(1, "--pieces 3"), (3, "--pieces 3"), (2, "")]:
        command = f"-m fastupdate train --rule adamw lion --epochs 1 --batch-size 397 {options} --out".split()
        done = mpiexec(ranks, *command[1:], str(tmp_path / "curves.png"))
        assert done.returncode == 0, done.stderr
        rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("adamw ", "lion "))]
        tables[ranks, options] = [row[:4] + row[-2:] for row in rows]
    assert tables[1, "--pieces 3"] == tables[3, "--pieces 3"] != tables[2, ""]


def test_the_demo_says_once_what_is_wrong(tmp_path: Path) -> None:
    peer("mpi4py")
    done = mpiexec(2, "-m", "fastupdate", "train", "--pieces", "1", "--out", str(tmp_path / "curves.png"))
    assert done.returncode == 2
    assert done.stderr.count("--pieces: expected at least one for each of 2 processes, received 1") == 1
