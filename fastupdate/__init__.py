"""fastupdate: the step between gradients and new weights, in one pass and one call, with the same bits everywhere."""

from fastupdate import functional as functional
from fastupdate import groups as groups
from fastupdate import rules as rules
from fastupdate import schedules as schedules
from fastupdate.engines.threads import get_num_threads as get_num_threads
from fastupdate.engines.threads import set_num_threads as set_num_threads
from fastupdate.information import info as info
from fastupdate.monitoring.monitor import Monitor as Monitor
from fastupdate.optimizer import Optimizer as Optimizer
from fastupdate.rules.adam import Adam as Adam
from fastupdate.rules.adamw import AdamW as AdamW
from fastupdate.rules.momentum import Momentum as Momentum
from fastupdate.rules.rmsprop import RMSprop as RMSprop
from fastupdate.rules.sgd import SGD as SGD
from fastupdate.saving.checkpoint import CheckpointError as CheckpointError
from fastupdate.saving.checkpoint import load as load
from fastupdate.step.report import Report as Report
from fastupdate.step.stepper import BusyError as BusyError
