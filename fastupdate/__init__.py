"""fastupdate: the step between gradients and new weights, in one pass and one call, with the same bits everywhere."""

import importlib.util
import sys
import types
import typing

import fastupdate.starting
from fastupdate import functional as functional
from fastupdate import groups as groups
from fastupdate import monitoring as monitoring
from fastupdate import rules as rules
from fastupdate import schedules as schedules
from fastupdate.arrays.rows import Rows as Rows
from fastupdate.engines.threads import get_num_threads as get_num_threads
from fastupdate.engines.threads import set_num_threads as set_num_threads
from fastupdate.information import info as info
from fastupdate.monitoring.monitor import Monitor as Monitor
from fastupdate.optimizer import Optimizer as Optimizer
from fastupdate.optimizers import *  # noqa: F403 - the class of each rule, and `rule`
from fastupdate.partition import Partition as Partition
from fastupdate.saving.file import CheckpointError as CheckpointError
from fastupdate.saving.file import load as load
from fastupdate.step.loss_scale import LossScale as LossScale
from fastupdate.step.report import Report as Report
from fastupdate.step.stepper import BusyError as BusyError

_MODULES = {"functional", "groups", "monitoring", "rules", "schedules"}  # the public ones
_FACES = {"sharded": "mpi4py", "torch": "torch"}  # imported when they are asked for; what each of them is for

if typing.TYPE_CHECKING:  # to type checkers, a module with __getattr__ has every name
    from fastupdate import sharded as sharded
    from fastupdate import torch as torch

    __version__: str
else:

    def __getattr__(name: str) -> object:
        """What few need, when it is asked for: the version, and the faces of torch, which is imported, and MPI."""
        if name in _FACES:
            return importlib.import_module(f"fastupdate.{name}")
        if name != "__version__":
            raise AttributeError(f"module 'fastupdate' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
        from fastupdate.information import version

        return version()


def __dir__() -> list[str]:
    """The public names, not the modules that Python puts beside them; and the faces whose packages are installed."""
    faces = [name for name, package in _FACES.items() if importlib.util.find_spec(package) is not None]
    return sorted([*__all__, *faces, "__version__"])


__all__ = [
    name
    for name, value in sorted(globals().items())
    if not name.startswith("_") and (name in _MODULES or not isinstance(value, types.ModuleType))
]

fastupdate.starting.finish()
