"""Many processes, one model: FSDP2 cuts it up, fastupdate steps what is here of it, and checkpoints fit any number.

    torchrun --standalone --nproc-per-node 2 examples/sharded.py

Resume on as many processes as you like: run it again with another --nproc-per-node and the same --directory.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fastupdate as fu

STEPS = 40


def sharded_model(mesh: object) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def newest(directory: Path) -> Path | None:
    """The last checkpoint that was written to its end: torch names what a directory holds when all of it is there."""
    whole = [found.parent for found in directory.glob("step-*/.metadata")]
    return max(whole, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, help="for checkpoints; the last one there is gone on from")
    directory = parser.parse_args().directory

    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    model = sharded_model(init_device_mesh("cpu", (ranks,)))
    optimizer = fu.torch.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01, clip_norm=1.0, ema_decay=0.99)

    def state() -> dict[str, object]:
        of_model, of_optimizer = get_state_dict(model, optimizer)
        return {"model": of_model, "optimizer": of_optimizer}

    last = newest(directory) if directory else None
    if last:
        found = state()
        checkpoint.load(found, checkpoint_id=last)
        set_state_dict(model, optimizer, model_state_dict=found["model"], optim_state_dict=found["optimizer"])

    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x = torch.randn(64, 16, generator=generator)  # the same everywhere, of which each takes its share
        mine = x[rank::ranks]
        loss = (model(mine) - mine.sum(dim=1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    weight, step = model[0].weight, int(optimizer.state[model[0].weight]["step"])
    if directory:
        checkpoint.save(state(), checkpoint_id=directory / f"step-{step}")
    if rank == 0:
        here = weight.to_local().numel() / weight.numel()
        print(f"step {step}: loss {loss.item():.3f}, gradient norm {optimizer.report.grad_norm:.3f}")
        print(f"{here:.0%} of the first layer is on each of {ranks} ranks, and of its states")
    distributed.barrier()  # gloo's threads let go of tensors, for which they need an interpreter that has not ended
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
