"""A picture of schedules."""

from os import PathLike
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from fastupdate.arrays.numbers import integer
from fastupdate.arrays.place import Place
from fastupdate.schedules.base import Schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(*schedules: Schedule, steps: int, path: str | PathLike[str] | None = None) -> "Figure":
    """Draws the schedules over steps 0 … steps - 1, saves the figure to `path` if given, and returns it."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("[plot] matplotlib is missing: pip install fastupdate[demo]") from error
    t = np.arange(integer(Place("plot", "steps"), steps))
    axes = (figure := Figure((8, 6), layout="constrained")).add_subplot(xlabel="step", ylabel="value")
    for schedule in schedules:
        axes.plot(t, schedule(t), label=fill(repr(schedule), 100))
    if schedules:
        figure.legend(loc="outside lower left", fontsize="small")
    if path is not None:
        figure.savefig(path)
    return figure
