"""What a rule is made of: hyperparameters, flags, states, and two functions of numbers. A rule knows no optimizer.

A rule is a class that reads like its paper (`fastupdate/rules/momentum.py` is a short one):

    class Momentum:
        '''Formula, source, peer.'''

        lr = Hyper(1e-2, NON_NEGATIVE, "learning rate α")       # arguments, in this order, with their defaults
        nesterov = Flag("look ahead along the velocity")         # arguments too; each value is compiled by itself
        v = State("velocity", role="velocity")                   # arrays like the parameter, zero at the start

        @staticmethod
        def prepare(h, t):                   # once a step t = 1, 2, …, in float64: what `update` needs, rounded once
            return scalars(lr=h.lr)

        @staticmethod
        def update(flags, s, g, p, v):       # for one element: the change of p, then the new states
            …

A third function, `check(given)`, is there where arguments depend on each other; it returns None, or what is wrong.
Compilers (`emit.py` for C++ and CUDA, Numba) and NumPy all take `prepare` and `update` from the same text, so they hold
only what each of them computes to the same bits: + − × ÷, the functions of `scalar.py`, and in `prepare` also powers.
"""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any, Literal

from fastupdate.arrays.numbers import BELOW_ONE as BELOW_ONE
from fastupdate.arrays.numbers import FRACTION as FRACTION
from fastupdate.arrays.numbers import NON_NEGATIVE as NON_NEGATIVE
from fastupdate.arrays.numbers import Interval as Interval


@dataclass(frozen=True)
class Hyper:
    """A hyperparameter: a number, or a schedule of numbers, that groups may set apart."""

    default: float
    interval: Interval
    meaning: str


@dataclass(frozen=True)
class Flag:
    """An option that changes which states exist or which equations run."""

    meaning: str
    _: KW_ONLY
    when: str | None = None  # no argument: it is on when this hyperparameter is not 0


@dataclass(frozen=True)
class State:
    """An array shaped like the parameter, zero at the start."""

    meaning: str
    _: KW_ONLY
    when: str | None = None  # it exists under this flag only
    role: Literal["momentum", "velocity"] | None = (
        None  # a mean of gradients, for monitoring; a velocity is its negative
    )


@cache
def _scalars_type(names: tuple[str, ...]) -> Any:
    return namedtuple("Scalars", names)


def scalars(**values: float) -> Any:
    """The numbers that `update` finds in `s`, by name: what `prepare` returns."""
    return _scalars_type(tuple(values))(**values)


@dataclass(frozen=True, eq=False)
class Rule:
    """A rule as engines see it, read from its class by `rule_of`.

    prepare(h, t)
        float64 scalars of step t = 1, 2, … as a named tuple; h maps hyperparameters to their values.
    update(flags, s, g, p, *states)
        the change of the parameter, then the new states. Works on numbers (Numba compiles it) and on NumPy arrays.
    check(given)
        what is wrong with the arguments, by name; None if nothing is.
    """

    name: str
    formula: type
    hypers: Mapping[str, Interval]
    states: tuple[str, ...]
    prepare: Callable[[Mapping[str, float], int], Any]
    update: Callable[..., tuple[Any, ...]]
    check: Callable[[Mapping[str, Any]], str | None]
    flags: tuple[str, ...] = ()
    state_flags: Mapping[str, str] = field(default_factory=dict)  # state → the flag it exists under
    flag_hypers: Mapping[str, str] = field(default_factory=dict)  # flag → the hyperparameter that switches it on
    momentum: str | None = None  # the state that is a running mean of gradients, for monitoring
    momentum_sign: int = 1  # −1: that state points down the slope, as a velocity does
    decoupled_decay: bool = False  # weight_decay shrinks the weight instead of joining the gradient
    native: bool = True  # it is part of the compiled modules

    def mask(self, flags: Mapping[str, bool]) -> int:
        """The bit mask that selects the compiled variant."""
        return sum(1 << k for k, name in enumerate(self.flags) if flags[name])

    def flag_tuple(self, flags: Mapping[str, bool]) -> Any:
        """The flags as `update` takes them."""
        return namedtuple("Flags", self.flags)(**flags)

    def kept(self, flags: Mapping[str, bool]) -> tuple[str, ...]:
        """The states that exist under these flags."""
        return tuple(s for s in self.states if s not in self.state_flags or flags[self.state_flags[s]])


def declared(formula: type, kind: type[Any]) -> dict[str, Any]:
    """What a rule's class and its bases declare of one kind (Hyper, Flag or State), by name and in order."""
    every: dict[str, Any] = {}
    for base in reversed(formula.__mro__):
        every |= vars(base)
    return {name: value for name, value in every.items() if isinstance(value, kind)}


def rule_of(formula: type, *, native: bool = True) -> Rule:
    """Reads a rule's class; TypeError names what it lacks or has too much."""
    name = formula.__name__.lower()
    hypers, flags, states = (declared(formula, kind) for kind in (Hyper, Flag, State))
    _check_shape(name, formula, hypers, flags, states)
    prepare: Any = formula.prepare  # type: ignore[attr-defined]
    roles = {state.role: key for key, state in states.items() if state.role}
    return Rule(
        name=name,
        formula=formula,
        hypers={key: hyper.interval for key, hyper in hypers.items()},
        states=tuple(states),
        prepare=lambda h, t: prepare(SimpleNamespace(**{key: h[key] for key in hypers}), float(t)),
        update=formula.update,  # type: ignore[attr-defined]
        check=getattr(formula, "check", lambda given: None),
        flags=tuple(flags),
        state_flags={key: state.when for key, state in states.items() if state.when},
        flag_hypers={key: flag.when for key, flag in flags.items() if flag.when},
        momentum=next(iter(roles.values()), None),
        momentum_sign=-1 if "velocity" in roles else 1,
        decoupled_decay=getattr(formula, "decoupled_decay", False),
        native=native,
    )


OTHERS = {"prepare", "update", "check", "decoupled_decay"}


def _check_shape(
    name: str, formula: type, hypers: dict[str, Hyper], flags: dict[str, Flag], states: dict[str, State]
) -> None:
    """Whether the parts of a rule fit together, so that no engine finds out later that they do not."""

    def fail(argument: str, expected: str, received: str) -> None:
        raise TypeError(f"[{name}] {argument}: expected {expected}, received {received}")

    known = {*hypers, *flags, *states, *OTHERS}
    for key in (key for base in formula.__mro__[:-1] for key in vars(base) if not key.startswith("_")):
        if key not in known:
            fail(key, f"a Hyper, a Flag, a State or one of {', '.join(sorted(OTHERS))}", "another attribute")
    if "lr" not in hypers:
        fail("lr", "a Hyper", "none")
    for function, leading in (("prepare", ("h", "t")), ("update", ("flags", "s", "g", "p", *states))):
        if not isinstance(inspect.getattr_static(formula, function, None), staticmethod):
            fail(function, "a @staticmethod", "none")
        code = getattr(formula, function).__code__
        found = code.co_varnames[: code.co_argcount]
        if found != leading:
            fail(function, f"the arguments ({', '.join(leading)})", f"({', '.join(found)})")
        if code.co_freevars:
            fail(function, "helpers at the top of the file", f"{code.co_freevars[0]} from within a function")
    for things, others, what in ((flags, hypers, "a hyperparameter"), (states, flags, "a flag")):
        for key, thing in things.items():
            if thing.when is not None and thing.when not in others:
                fail(key, f"`when` to name {what}", repr(thing.when))
