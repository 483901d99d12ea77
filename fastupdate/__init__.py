"""fastupdate: the step between gradients and new weights, in one pass, one call, one definition, and the same bits everywhere."""

from fastupdate import schedules
from fastupdate.optimizer import BusyError, Optimizer
from fastupdate.report import Report
from fastupdate.rules import SGD, Adam, AdamW, Momentum, RMSprop
from fastupdate.threads import get_num_threads, set_num_threads

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "BusyError",
    "Momentum",
    "Optimizer",
    "RMSprop",
    "Report",
    "get_num_threads",
    "schedules",
    "set_num_threads",
]
