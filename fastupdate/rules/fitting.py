"""Whether the parts of a rule fit together, so that no engine finds out later that they do not."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

from fastupdate.rules.extent import EXTENTS, Extent

if TYPE_CHECKING:
    from fastupdate.rules.rule import Parts

MODES = ("evaluated", "trained")
SAYINGS = {"decoupled_decay", "own_decay", "found_rate", "lazy_rows"}  # what is True of a rule that has them
OTHERS = {"prepare", "update", "check", "matrix", *SAYINGS, *MODES}
Signatures = dict[str, tuple[str, ...]]  # the functions of a rule, and the arguments that each takes


def settle_name(extent: str, measure: str, sums: Mapping[str, Any]) -> str:
    """What settles the sums of one function over an extent: where several sum over it, the first has the plain name."""
    first = min(total.of for total in sums.values() if extent in total.extents)
    return f"settle_{extent}" + ("" if measure == first else measure.removeprefix("measure"))


def settled_alone(formula: type, measures: list[str]) -> list[Extent]:
    """The extents whose states go on from step to step by themselves: of a rule that measures nothing."""
    return [] if measures else [extent for extent in EXTENTS if hasattr(formula, f"settle_{extent}")]


class Checker:
    """Raises TypeError for the first thing of a rule that does not fit."""

    def __init__(self, name: str) -> None:
        self._name = name

    def fail(self, argument: str, expected: str, received: str) -> None:
        raise TypeError(f"[{self._name}] {argument}: expected {expected}, received {received}")

    def signatures(self, formula: type, parts: Parts, measures: list[str]) -> Signatures:
        """The functions that a rule has to have."""
        every: Signatures = {"prepare": ("h", "t"), "update": ("flags", "s", "g", "p", *parts.states)}
        every |= dict.fromkeys(measures, every["update"])
        for key, total in parts.sums.items():
            if total.of not in every:
                self.fail(key, "`of` to name a function that measures", repr(total.of))
        settled = {
            extent: [key for key, state in parts.states.items() if state.per == extent] for extent in EXTENTS[1:]
        }
        for extent, measure in product(EXTENTS[1:], measures):
            summed = [key for key, total in parts.sums.items() if extent in total.extents and total.of == measure]
            if summed:
                every[settle_name(extent, measure, parts.sums)] = ("flags", "s", "n", *summed, *settled[extent])
        if any(hasattr(formula, mode) for mode in MODES):
            elements = [key for key, state in parts.states.items() if state.per == "element"]
            every |= dict.fromkeys(MODES, ("h", "p", *elements))
        for extent in settled_alone(formula, measures):
            every[f"settle_{extent}"] = ("flags", "s", "n", *settled[extent])
        return every

    def check_names(self, formula: type, known: set[str]) -> None:
        for key in (key for base in formula.__mro__[:-1] for key in vars(base) if not key.startswith("_")):
            if key not in known:
                self.fail(key, f"a Hyper, a Flag, a State or one of {', '.join(sorted(OTHERS))}", "another attribute")

    def check_function(self, formula: type, function: str, arguments: tuple[str, ...]) -> None:
        if not isinstance(inspect.getattr_static(formula, function, None), staticmethod):
            self.fail(function, "a @staticmethod", "none")
        code = getattr(formula, function).__code__
        found = code.co_varnames[: code.co_argcount]
        if found != arguments:
            self.fail(function, f"the arguments ({', '.join(arguments)})", f"({', '.join(found)})")
        if code.co_freevars:
            self.fail(function, "helpers at the top of the file", f"{code.co_freevars[0]} from within a function")

    def check_matrix(self, formula: type, states: set[str]) -> None:
        code = getattr(formula, "matrix").__code__  # noqa: B009
        found = code.co_varnames[: code.co_argcount]
        named = found[2:] if found[1:2] == ("s",) else found[1:]
        if found[:1] != ("flags",) or not named or not states.issuperset(named):
            self.fail("matrix", "the arguments (flags, …) or (flags, s, …), of states", f"({', '.join(found)})")

    def check_conditions(self, things: Mapping[str, Any], others: Mapping[str, Any], what: str) -> None:
        for key, thing in things.items():
            if thing.when is not None and thing.when not in others:
                self.fail(key, f"`when` to name {what}", repr(thing.when))


def check_parts(name: str, formula: type, parts: Parts, measures: list[str]) -> None:
    """TypeError for the first part of a rule that does not fit the others."""
    checker, (hypers, flags, states, sums, factors) = Checker(name), parts
    functions = checker.signatures(formula, parts, measures)
    checker.check_names(formula, {*hypers, *flags, *states, *sums, *factors, *functions, *OTHERS})
    if "lr" not in hypers:
        checker.fail("lr", "a Hyper", "none")
    for function, arguments in functions.items():
        checker.check_function(formula, function, arguments)
    for key, state in states.items():
        if state.when is not None and state.per != "element":
            checker.fail(key, "a state of an element, where `when` names a flag", f"per {state.per}")
    for key, factor in factors.items():
        if factor.at_most not in hypers:
            checker.fail(key, "`at_most` to name a hyperparameter", repr(factor.at_most))
    if hasattr(formula, "matrix"):
        checker.check_matrix(formula, {*states, *factors})
    checker.check_conditions(flags, hypers, "a hyperparameter")
    checker.check_conditions(states, flags, "a flag")
