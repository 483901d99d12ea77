"""Many processes, one model in NumPy: each works out gradients of its images, and moves its part of the weights.

    mpiexec -n 2 python -m mpi4py examples/mpi.py

Resume on as many processes as you like: run it again with another -n and the same --directory. Batches are cut into six
pieces, whose gradients add up in one order, so the weights are the same, bit for bit, on up to six processes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from zlib import crc32

import numpy as np
from mpi4py import MPI

import fastupdate as fu

STEPS, PIECES = 40, 6


def gradients(params: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    """Mean squared error of a network with one hidden layer, and its gradients."""
    hidden = np.tanh(x @ params["w1"])
    error = hidden @ params["w2"] - y
    d_hidden = (error @ params["w2"].T) * (1 - hidden * hidden)
    scale = np.float32(2 / len(x))
    return float(np.mean(error * error)), {"w1": scale * (x.T @ d_hidden), "w2": scale * (hidden.T @ error)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, help="for a checkpoint; one that is there is gone on from")
    directory = parser.parse_args().directory

    comm = MPI.COMM_WORLD
    rng = np.random.default_rng(0)  # the same everywhere
    params = {
        "w1": rng.standard_normal((16, 512), dtype=np.float32) / 4,
        "w2": rng.standard_normal((512, 1), dtype=np.float32) / 16,
    }
    optimizer = fu.sharded.AdamW(params, comm, lr=1e-2, weight_decay=0.01, clip_norm=1.0, pieces=PIECES)
    if directory and (directory / "run.fu").exists():
        optimizer.load_state_dict(fu.load(directory / "run.fu"))

    rng = np.random.default_rng(1)
    for _ in range(STEPS):
        x = rng.standard_normal((96, 16), dtype=np.float32)
        y = x.sum(axis=1, keepdims=True)
        pieces = np.split(np.arange(len(x)), PIECES)
        losses = []
        for piece in optimizer.own_pieces:  # of this process
            loss, grads = gradients(params, x[pieces[piece]], y[pieces[piece]])
            losses.append(loss)
            optimizer.accumulate(grads)
        report = optimizer.step()

    if directory:
        optimizer.save(directory / "run.fu")
    if comm.rank == 0:
        here = sum(state.size for states in optimizer.state.values() for state in states.values())
        whole = 2 * sum(p.size for p in params.values())
        weights = crc32(b"".join(p.tobytes() for p in params.values()))
        print(f"step {report.step}: loss of the first piece {losses[0]:.3f}, gradient norm {report.grad_norm:.3f}")
        print(f"weights {weights:08x}")
        print(f"{here / whole:.0%} of the states are on the first of {comm.size} ranks")


if __name__ == "__main__":
    main()
