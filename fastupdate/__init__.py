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
from fastupdate.optimizers import SGD as SGD
from fastupdate.optimizers import Adam as Adam
from fastupdate.optimizers import AdamW as AdamW
from fastupdate.optimizers import Momentum as Momentum
from fastupdate.optimizers import RMSprop as RMSprop
from fastupdate.optimizers import rule as rule
from fastupdate.saving.checkpoint import CheckpointError as CheckpointError
from fastupdate.saving.checkpoint import load as load
from fastupdate.step.loss_scale import LossScale as LossScale
from fastupdate.step.report import Report as Report
from fastupdate.step.stepper import BusyError as BusyError
