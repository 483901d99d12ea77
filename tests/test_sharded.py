"""fastupdate.torch on several ranks (gloo): the bits are those of one process that has whole tensors."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from peers import peer
from ranks import check_all

pytestmark = pytest.mark.peer

# What torch may say when all is done and the interpreter ends: rare after a barrier (docs/sharded.md).
ENDED_BY_GLOO = "terminate called without an active exception"
MODULES = (
    "sharded_steps",
    "sharded_agreement",
    "sharded_sums",
    "sharded_phases",
    "sharded_saving",
    "sharded_messages",
    "sharded_pieces",
)


@pytest.mark.parametrize("module", MODULES)
def test_the_same_bits_on_any_number_of_ranks(module: str, tmp_path: Path) -> None:
    peer("torch")
    check_all(module, tmp_path)


DYING = """
import datetime, os, pathlib, sys
import torch
from torch import distributed
from torch.distributed import checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
import fastupdate as fu

rank, directory = int(sys.argv[1]), pathlib.Path(sys.argv[2])
limit = datetime.timedelta(seconds=20)
distributed.init_process_group("gloo", f"file://{directory}/ranks", limit, rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
p = torch.nn.Parameter(distribute_tensor(torch.ones(9, 700), mesh, [Shard(0)], src_data_rank=None))
optimizer = fu.torch.Lamb([p], lr=0.1)

def step():
    p.grad = torch.full_like(p, 0.5)
    optimizer.step()

def save(name):
    state = {"p": p.detach(), "m": optimizer.state[p]["m"]}
    checkpoint.save(state, checkpoint_id=directory / name)

step()
save("first")
if rank == 1:
    distributed.all_gather = lambda *args, **kwargs: os._exit(3)  # the others have begun to tell each other of sums
for what in (step, lambda: save("second")):
    try:
        what()
    except RuntimeError as error:
        print(type(error).__name__)
    else:
        print("went on")
sys.stdout.flush()
os._exit(0)
"""


def test_a_rank_that_dies_in_a_step_leaves_an_error_and_no_new_checkpoint(tmp_path: Path) -> None:
    peer("torch")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = partial(subprocess.Popen, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    world = [run([sys.executable, "-c", DYING, str(rank), str(tmp_path)]) for rank in range(2)]
    try:
        said = [process.communicate(timeout=120) for process in world]
    finally:
        for process in world:
            process.kill()
    assert [process.returncode for process in world] == [0, 3], said
    assert said[0][0].split() == ["RuntimeError", "RuntimeError"], said
    assert (tmp_path / "first" / ".metadata").exists()
    assert not (tmp_path / "second" / ".metadata").exists()


def test_the_example_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    peer("torch")
    example = Path(__file__).parents[1] / "examples" / "sharded.py"
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    for ranks, step in ((2, 40), (1, 80)):
        command = [*run, str(ranks), str(example), "--directory", str(tmp_path / "run")]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=env, timeout=300)
        assert done.returncode == 0 or ENDED_BY_GLOO in done.stderr, done.stderr
        first, second = done.stdout.splitlines()
        assert first.startswith(f"step {step}: ")
        assert second.startswith(f"{1 / ranks:.0%} of the first layer")
