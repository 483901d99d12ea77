"""Tests over MPI: one world of processes runs a whole table of cases, on the first 1, 2, 3 and 4 of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

MOST = 4  # ranks
LIMIT = 240  # seconds


class Ranks(NamedTuple):
    """Some of the world's ranks, and a directory that all have."""

    comm: Any
    directory: Path

    @property
    def count(self) -> int:
        return self.comm.Get_size()

    @property
    def rank(self) -> int:
        return self.comm.Get_rank()


Check = tuple[str, Callable[[Ranks], None]]  # its name; it raises if something does not hold


def mpiexec(ranks: int, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python command on so many processes; a failure in one ends all."""
    launcher = str(Path(sys.executable).with_name("mpiexec"))
    run = [launcher, "-n", str(ranks), sys.executable, "-m", "mpi4py", *command]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **env}
    return subprocess.run(run, check=False, capture_output=True, text=True, env=env, timeout=LIMIT)


def check_all(module: str, tmp_path: Path) -> None:
    """Runs `checks()` of a module in a world of processes; fails with what has failed in any of them."""
    done = mpiexec(MOST, __file__, module, str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


def _run(checks: Iterable[Check], directory: Path) -> None:
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    worlds = [Ranks(world.Split(0 if world.rank < count else MPI.UNDEFINED), directory) for count in range(1, MOST + 1)]
    for name, check in checks:
        for count, ranks in enumerate(worlds, start=1):
            if world.rank < count:
                try:
                    check(ranks)
                except BaseException as error:
                    raise AssertionError(f"{name} on {count} ranks") from error
    world.Barrier()


if __name__ == "__main__":
    _run(__import__(sys.argv[1]).checks(), Path(sys.argv[2]))
