"""Schedules: hyperparameters as pure functions of the step.

A schedule is called with the number of steps already completed: ``schedule(0)`` is the value of the first update (as in
optax, and as torch's ``last_epoch``). An int gives a float; an array of ints gives a float64 array of the same shape
and the same bits. Past its last step a schedule holds its end value. Schedules are immutable, hashable and picklable,
compare equal when their arguments do, and are built again by their repr. Values may be learning rates, momenta, decays:
any float. Wrong arguments raise TypeError or ValueError.

Any function from step to number may stand for a schedule within another one. ``plateau`` alone has state: it follows a
metric. ``schedule.pure`` tells whether values may be worked out ahead: not where such a function or a plateau takes
part. Their state goes into ``schedule.state_dict()``.
"""

from fastupdate.schedules.base import Schedule as Schedule
from fastupdate.schedules.combine import clip as clip
from fastupdate.schedules.combine import join as join
from fastupdate.schedules.combine import scale as scale
from fastupdate.schedules.combine import swa as swa
from fastupdate.schedules.combine import warmup as warmup
from fastupdate.schedules.cycles import cosine_restarts as cosine_restarts
from fastupdate.schedules.cycles import cyclic as cyclic
from fastupdate.schedules.cycles import one_cycle as one_cycle
from fastupdate.schedules.decay import constant as constant
from fastupdate.schedules.decay import cosine as cosine
from fastupdate.schedules.decay import exponential as exponential
from fastupdate.schedules.decay import inverse_sqrt as inverse_sqrt
from fastupdate.schedules.decay import inverse_time as inverse_time
from fastupdate.schedules.decay import linear as linear
from fastupdate.schedules.decay import multi_step as multi_step
from fastupdate.schedules.decay import polynomial as polynomial
from fastupdate.schedules.decay import rising_beta2 as rising_beta2
from fastupdate.schedules.decay import step_decay as step_decay
from fastupdate.schedules.decay import warmup_stable_decay as warmup_stable_decay
from fastupdate.schedules.drawing import plot as plot
from fastupdate.schedules.metric import plateau as plateau

__all__ = [
    "Schedule",
    "clip",
    "constant",
    "cosine",
    "cosine_restarts",
    "cyclic",
    "exponential",
    "inverse_sqrt",
    "inverse_time",
    "join",
    "linear",
    "multi_step",
    "one_cycle",
    "plateau",
    "plot",
    "polynomial",
    "rising_beta2",
    "scale",
    "step_decay",
    "swa",
    "warmup",
    "warmup_stable_decay",
]


def __dir__() -> list[str]:
    """The schedules, not the modules that they are written in."""
    return __all__
