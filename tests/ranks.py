"""Tests on several ranks: one world of processes runs a whole table of cases, on the first 1, 2, 3 and 4 of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

MOST = 4  # ranks
LIMIT = timedelta(seconds=60)  # for which one waits for another


class Ranks(NamedTuple):
    """Some of the world's ranks: how many, a mesh and a group of them, and a mesh of two axes if there are four; and a
    directory that all have."""

    count: int
    mesh: Any
    group: Any
    grid: Any
    directory: Path


Check = tuple[str, Callable[[Ranks], None]]  # its name; it raises if something does not hold


def check_all(module: str, tmp_path: Path) -> None:
    """Runs `checks()` of a module in a world of processes; fails with what has failed in any of them."""
    here = Path(__file__).parent
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    said = [tmp_path / f"rank{rank}.txt" for rank in range(MOST)]
    world = []
    for rank, path in enumerate(said):
        with path.open("w") as out:
            command = [sys.executable, __file__, module, str(tmp_path), str(rank)]
            world.append(subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT))
    try:
        while not any(process.poll() for process in world) and None in [process.returncode for process in world]:
            time.sleep(0.1)
    finally:
        ends = [process.poll() for process in world]
        for process in world:
            process.kill()
            process.wait()
    assert ends == [0] * MOST, "\n".join(f"rank {k}: {said[k].read_text()}" for k in range(MOST) if ends[k])


def _run(checks: Iterable[Check], directory: str, rank: int) -> None:
    import torch
    from torch import distributed
    from torch.distributed.device_mesh import DeviceMesh

    torch.set_num_threads(1)
    init = f"file://{directory}/ranks"
    distributed.init_process_group("gloo", init, LIMIT, rank=rank, world_size=MOST)
    grid, worlds = DeviceMesh("cpu", [[0, 1], [2, 3]], mesh_dim_names=("replica", "shard")), []
    for count in range(1, MOST + 1):
        mesh = DeviceMesh("cpu", list(range(count)))
        group = distributed.new_group(list(range(count)))
        worlds.append(Ranks(count, mesh, group, grid if count == MOST else None, Path(directory)))
    for name, check in checks:
        for ranks in worlds:
            if rank < ranks.count:
                try:
                    check(ranks)
                except BaseException as error:
                    raise AssertionError(f"{name} on {ranks.count} ranks") from error
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    module, directory, rank = sys.argv[1:]
    _run(__import__(module).checks(), directory, int(rank))
    sys.stdout.flush()
    os._exit(0)  # an interpreter that ends while a thread of gloo's lets go of a tensor is ended by that thread
