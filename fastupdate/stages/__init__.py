"""The stages of a step, as engines and options see them: read from the classes of `table.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastupdate.rules.rule import Flag, Hyper, State, Sum, declared
from fastupdate.stages import table

PLACES = ("gradient", "before", "change", "after", "copy")  # in the order of the step


@dataclass(frozen=True, eq=False)
class Stage:
    """One of them.

    bit       by which a step asks for it
    place     what it changes: one of PLACES
    prepare   its numbers, once a step and group
    numbers   their names
    element   one element
    array     the name of the array that it has, if any; or of its numbers, of ranges of elements
    state     what that is of, what it starts from, and whether it lasts
    sums      the names of what the elements of a range add up to
    measure   what an element adds to each; None: nothing
    settle    the number of a range, by its sums
    options   what asks for it; of a stage with an array that no group sets, the option of its name
    at_times  it works in the steps that synchronise alone
    least_axes
              it leaves tensors of fewer axes alone
    """

    name: str
    bit: int
    place: str
    prepare: Callable[[Any], Any]
    numbers: tuple[str, ...]
    element: Callable[..., Any]
    array: str | None
    state: State
    sums: tuple[str, ...]
    measure: Any
    settle: Any
    least_axes: int
    options: tuple[str, ...]
    at_times: bool

    @property
    def by_rows(self) -> bool:
        """Whether it is measured row by row; else block by block."""
        return self.state.per == "unit"


class Inputs:
    """What stages are made of, by name: numbers, or columns of them."""

    lr: Any = 0.0
    weight_decay: Any = 0.0
    lookahead: Any = 0.0

    def __init__(self, **values: Any) -> None:
        vars(self).update({name: hyper.default for name, hyper in HYPERS.items()} | dict.fromkeys(FLAGS, 0) | values)


_CLASSES = [c for c in vars(table).values() if isinstance(c, type) and c.__module__ == table.__name__]
HYPERS: dict[str, Hyper] = {key: h for c in _CLASSES for key, h in declared(c, Hyper).items()}
FLAGS: tuple[str, ...] = tuple(key for c in _CLASSES for key in declared(c, Flag))


def _stage(k: int, formula: Any) -> Stage:
    [(array, state)] = declared(formula, State).items() or [(None, State("", start=0.0))]
    return Stage(
        name=formula.__name__,
        bit=1 << k,
        place=formula.at,
        prepare=formula.prepare,
        numbers=formula.prepare(Inputs())._fields,
        element=formula.element,
        array=array,
        state=state,
        sums=tuple(declared(formula, Sum)),
        measure=getattr(formula, "measure", None),
        settle=getattr(formula, "settle", None),
        least_axes=getattr(formula, "least_axes", 0),
        options=tuple(declared(formula, Hyper) | declared(formula, Flag)) or (formula.__name__.lower(),),
        at_times=getattr(formula, "at_times", False),
    )


STAGES: tuple[Stage, ...] = tuple(_stage(k, formula) for k, formula in enumerate(_CLASSES))
ARRAYS: dict[str, Stage] = {stage.array: stage for stage in STAGES if stage.array}
NUMBERS: tuple[str, ...] = tuple(number for stage in STAGES for number in stage.numbers)
FIRST_OTHER = 1 << len(STAGES)  # the bits from here on are asked for beside the stages
MEASURING: tuple[Stage, ...] = tuple(stage for stage in STAGES if stage.measure)
AT_TIMES = sum(stage.bit for stage in STAGES if stage.at_times)


def at(place: str) -> int:
    """The stages of a place."""
    return sum(stage.bit for stage in STAGES if stage.place == place)


def numbers(inputs: Inputs) -> dict[str, Any]:
    """The numbers of all stages."""
    return {name: value for stage in STAGES for name, value in stage.prepare(inputs)._asdict().items()}


IDLE = numbers(Inputs())  # of a step in which they have nothing to do


def working(now: dict[str, Any]) -> int:
    """The stages without arrays that any row of these numbers makes work."""
    different = {name: bool(np.any(value != IDLE[name])) for name, value in now.items()}
    return sum(stage.bit for stage in STAGES if not stage.array and any(different[name] for name in stage.numbers))
