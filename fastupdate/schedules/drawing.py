"""A picture of schedules."""

from collections.abc import Callable
from dataclasses import fields
from os import PathLike
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastupdate.arrays.numbers import integer
from fastupdate.arrays.place import Place
from fastupdate.schedules.base import Array, Schedule
from fastupdate.schedules.combine import as_schedule, function

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(
    *schedules: Schedule | Callable[[int], float], steps: int, path: str | PathLike[str] | None = None
) -> "Figure":
    """Draws each schedule over steps 0 … steps - 1 in a panel of its own, all with the same axes; returns the figure.

    Also saves it to `path`, if given. Titles leave out arguments that are as by default.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("[plot] matplotlib is missing: pip install fastupdate[demo]") from error
    t = np.arange(integer(Place("plot", "steps"), steps))
    curves = [_values(k, schedule, t) for k, schedule in enumerate(schedules)]
    columns = min(3, max(1, len(schedules)))
    rows = max(1, -(-len(schedules) // columns))
    figure = Figure((1 + 3.3 * columns, 0.5 + 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes, schedule, curve in zip(panels, schedules, curves, strict=False):
        axes.plot(t, curve)
        axes.set_title(fill(brief(schedule), 44), fontsize="small", loc="left")
        axes.grid(alpha=0.3)
    for axes in panels[len(schedules) :]:
        axes.set_axis_off()
    figure.supxlabel("step", fontsize="medium")
    figure.supylabel("value", fontsize="medium")
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _values(k: int, schedule: Any, t: NDArray[np.int64]) -> Array:
    """Those of the steps t; a plain function is asked for each of them."""
    place = Place("plot", f"schedules[{k}]")
    if not callable(schedule):
        place.fail(TypeError, "a schedule or a function of the step (fu.schedules.constant(x))", repr(schedule))
    return as_schedule(place, schedule)(t)


def brief(value: Any) -> str:
    """A schedule without the arguments that are as by default, numbers to four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(brief, value))}]"
    if isinstance(value, function):
        value = value.of
    if not hasattr(value, "__dataclass_fields__"):
        return getattr(value, "__name__", repr(value))
    given = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    defaults = {field.name: field.default for field in fields(value)}
    shown = [f"{name}={brief(part)}" for name, part in given.items() if part != defaults[name]]
    return f"{type(value).__name__}({', '.join(shown)})"
