"""fastupdate: the step between gradients and new weights, in one pass and one call, with the same bits everywhere."""

import importlib
import sys
import types
import typing

from fastupdate import functional as functional
from fastupdate import groups as groups
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

_MODULES = {"functional", "groups", "rules", "schedules"}  # the public ones

if typing.TYPE_CHECKING:  # to type checkers, a module with __getattr__ has every name
    from fastupdate import sharded as sharded
    from fastupdate import torch as torch

    __version__: str
else:

    def __getattr__(name: str) -> object:
        """What few need, when it is asked for: the version, and the faces of torch, which is imported, and MPI."""
        if name in ("sharded", "torch"):
            return importlib.import_module(f"fastupdate.{name}")
        if name != "__version__":
            raise AttributeError(f"module 'fastupdate' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
        from fastupdate.information import version

        return version()


def __dir__() -> list[str]:
    """The public names: those of _MODULES and what is imported above, not the modules that Python puts beside it."""
    public = [name for name, value in globals().items() if name in _MODULES or not isinstance(value, types.ModuleType)]
    return sorted([*(name for name in public if not name.startswith("_")), "__version__"])


__all__ = [name for name in __dir__() if name != "__version__"]
