"""Tensors of which each rank has a part: optimizers over MPI, and how what parts come to adds up to sums of wholes.

`fastupdate.sharded.AdamW(params, comm, lr=1e-3)` takes a communicator of mpi4py's. See docs/mpi.md.
"""

from fastupdate.sharded.classes import CLASSES
from fastupdate.sharded.optimizer import Optimizer as Optimizer

globals().update(CLASSES)

__all__ = ["Optimizer", *CLASSES]  # noqa: PLE0604
