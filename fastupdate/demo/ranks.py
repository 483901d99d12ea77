"""Training on the processes that mpiexec has started: each works out the gradients of some pieces of a batch."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np

from fastupdate import sharded
from fastupdate.demo import DemoError, require
from fastupdate.demo.network import MLP, Floats, Labels

LAUNCHED = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")  # what MPICH's launchers and Open MPI's tell processes


def communicator(pieces: int | None) -> Any:
    """The processes that train together; None: there is this one alone, and batches are in one piece."""
    if pieces is None and not any(name in os.environ for name in LAUNCHED):
        return None
    return require("mpi4py.MPI", "training in pieces or on several processes", extra="mpi").COMM_WORLD


def is_first(comm: Any) -> bool:
    """Whether this is the process that says what comes of it."""
    return comm is None or comm.rank == 0


@contextmanager
def together(comm: Any, pieces: int | None) -> Iterator[None]:
    """Within the context the first process alone prints, and an error that is nobody's to put right ends all."""
    if comm is None:
        yield
        return
    if pieces is not None and pieces < comm.size:
        raise DemoError(f"--pieces: expected at least one for each of {comm.size} processes, received {pieces}")
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stdout if is_first(comm) else nowhere):
            yield
    except (DemoError, OSError):  # of which the first process has to say something
        raise
    except Exception:
        traceback.print_exc()
        comm.Abort(1)


def on_first(comm: Any, check: Callable[[], None]) -> None:
    """Checks on the first process what concerns that alone; what it objects to, all raise."""
    said = None
    if is_first(comm):
        try:
            check()
        except DemoError as error:
            said = str(error)
    said = said if comm is None else comm.bcast(said)
    if said is not None:
        raise DemoError(said)


class SharedTraining:
    """A network that is trained by an optimizer of fastupdate.sharded.

    params, grads   what this process moves, and the gradients of the whole batch that it moves by
    """

    def __init__(self, network: MLP, optimizer: sharded.Optimizer, comm: Any, pieces: int | None) -> None:
        self._network, self._optimizer, self._comm = network, optimizer, comm
        self._pieces = pieces or comm.size
        self.params: dict[str, Floats] = optimizer.parts

    @property
    def grads(self) -> dict[str, Floats]:
        return self._optimizer.reduced

    def update(self) -> None:
        """Moves all weights by the gradients that were taken in."""
        self._optimizer.step(reduce="sum")

    def compute_gradients(self, images: Floats, labels: Labels) -> float:
        """The mean loss of a batch, after the gradients of this process's pieces were taken in."""
        own = [*self._losses(images, labels)]
        return float(sum(loss for losses in self._comm.allgather(own) for loss in losses))

    def _losses(self, images: Floats, labels: Labels) -> Iterator[float]:
        cut = np.array_split(np.arange(len(labels)), self._pieces)
        for piece in self._optimizer.own_pieces:
            yield self._network.compute_gradients(images[cut[piece]], labels[cut[piece]], of=len(labels))
            self._optimizer.accumulate(self._network.grads)

    def largest(self, difference: float) -> float:
        """Over all processes."""
        return float(max(self._comm.allgather(difference)))
