"""fastupdate: the step between gradients and new weights, in one pass, one call, one definition, and the same bits everywhere."""

from fastupdate import functional, rules, schedules
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
    "Momentum",
    "Optimizer",
    "RMSprop",
    "Report",
    "functional",
    "get_num_threads",
    "info",
    "rules",
    "schedules",
    "set_num_threads",
]
