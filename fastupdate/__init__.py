"""fastupdate: the step between gradients and new weights, in one pass and one call, with the same bits everywhere."""

from fastupdate import functional, groups, rules, schedules
from fastupdate.checkpoint import CheckpointError, load
from fastupdate.information import info
from fastupdate.optimizer import BusyError, Optimizer
from fastupdate.report import Report
from fastupdate.rules import SGD, Adam, AdamW, Momentum, RMSprop
from fastupdate.threads import get_num_threads, set_num_threads

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "BusyError",
    "CheckpointError",
    "Momentum",
    "Optimizer",
    "RMSprop",
    "Report",
    "functional",
    "get_num_threads",
    "groups",
    "info",
    "load",
    "rules",
    "schedules",
    "set_num_threads",
]
