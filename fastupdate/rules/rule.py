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

Where a step depends on sums, functions come before `update` (`fastupdate/rules/lamb.py`):

        trust = State("‖w‖/‖r‖", per="tensor")   # one number for each tensor, not for each element
        squares = Sum("‖r‖²", per="tensor")      # what elements add up to

        def measure(flags, s, g, p, *states):    # for one element: its terms of the sums, then the new states
        def settle_tensor(flags, s, n, *sums, *states):
                                                 # for one tensor, in float64: its states, by the sums over n elements;
                                                 # likewise settle_row, _column, _matrix (the last two axes), _unit
                                                 # (the first axis) and _list
        def matrix(flags, s, o):                 # array in, array out: what the state `o` of a matrix becomes before
                                                 # `update` and `measure_2`, in NumPy's words alone
                                                 # (fastupdate/rules/muon.py, normuon.py)

        left = Factor("mean of ∇L∇Lᵀ", per="rows")   # a square array for each matrix, which is for `matrix` alone
        def matrix(flags, s, o, v, left):        # what becomes of several, in their order (fastupdate/rules/soap.py)

Beside sums, `Maximum` declares the largest of numbers ≥ 0 (`fastupdate/rules/sm3.py`). A rule without `measure` may
have numbers that go on from step to step: `settle_tensor(flags, s, n, *states)` or `settle_list` alone
(`fastupdate/rules/sgdschedulefree.py`).

A rule may measure again (`measure_2`, with `Sum(…, of="measure_2")`). Whichever sums over an extent first has the plain
name, `settle_row`; what `measure_3` sums over rows after that, `settle_row_3` settles (`fastupdate/rules/came.py`). A
state that is not of an element is a number to the functions of elements.

Where weights are trained at one point and judged at another, two functions of arrays go from one to the other:
`evaluated(h, p, *states)` and `trained(h, p, *states)`, of the states of elements (`Optimizer.eval` and `train`).

A further function, `check(given)`, is there where a flag depends on other arguments; it returns None, or what is wrong.
Compilers (`emit` for C++ and CUDA, Numba) and NumPy all take these functions from the same text, so they hold only what
each of them computes to the same bits: + − × ÷, the functions of `scalar.py`, and in `prepare` also powers, `exp` and
`log`.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

from fastupdate.arrays.numbers import BELOW_ONE as BELOW_ONE
from fastupdate.arrays.numbers import CEILING as CEILING
from fastupdate.arrays.numbers import COUNT as COUNT
from fastupdate.arrays.numbers import COUNT_OR_ZERO as COUNT_OR_ZERO
from fastupdate.arrays.numbers import FINITE as FINITE
from fastupdate.arrays.numbers import FLOOR as FLOOR
from fastupdate.arrays.numbers import FRACTION as FRACTION
from fastupdate.arrays.numbers import GROWTH as GROWTH
from fastupdate.arrays.numbers import LIMIT as LIMIT
from fastupdate.arrays.numbers import NON_NEGATIVE as NON_NEGATIVE
from fastupdate.arrays.numbers import OPEN_FRACTION as OPEN_FRACTION
from fastupdate.arrays.numbers import POSITIVE as POSITIVE
from fastupdate.arrays.numbers import SIZE as SIZE
from fastupdate.arrays.numbers import SWITCH as SWITCH
from fastupdate.arrays.numbers import Interval as Interval
from fastupdate.arrays.place import Place
from fastupdate.rules.extent import EXTENTS as EXTENTS
from fastupdate.rules.extent import Extent as Extent
from fastupdate.rules.extent import Side as Side
from fastupdate.rules.fitting import check_parts, settle_name, settled_alone


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
    of: Literal["matrix"] | None = None  # `matrix` alone reads it, which is not compiled, so it makes no variants


@dataclass(frozen=True)
class State:
    """An array shaped like the parameter, or a float64 number for each range of another extent."""

    meaning: str
    _: KW_ONLY
    when: str | None = None  # it exists under this flag only
    per: Extent = "element"
    start: float | str = 0.0  # a number, the hyperparameter that it is, "p": a copy of the parameter, "ndim": its axes
    lasts: bool = True  # False: nothing of it is needed after the step, so it is not saved
    remade: bool = False  # the next step makes it what it is, from zero too: a file from before there was one, lacks it
    role: Literal["momentum", "velocity"] | None = (
        None  # a mean of gradients, for monitoring; a velocity is its negative
    )


@dataclass(frozen=True)
class Factor:
    """A square array for each matrix, as long as one of its sides and of its type, on which `matrix` alone works.

    It starts from zero, and goes on as it is when a tensor thaws. What follows from it, `matrix` makes anew in a
    tensor's first step.
    """

    meaning: str
    _: KW_ONLY
    per: Side
    at_most: str  # a hyperparameter: a longer side has an empty array; it counts when the optimizer is made


@dataclass(frozen=True)
class Sum:
    """What elements add up to over ranges, in float64: the result of a function that measures."""

    meaning: str
    _: KW_ONLY
    per: Extent | tuple[Extent, ...]
    of: str = "measure"  # the function

    largest = False

    @property
    def extents(self) -> tuple[Extent, ...]:
        """What it is summed over."""
        return self.per if isinstance(self.per, tuple) else (self.per,)


class Maximum(Sum):
    """The largest of what elements have over ranges, which are numbers ≥ 0; NaN if one of them is."""

    largest = True


@dataclass(frozen=True, eq=False)
class Phase:
    """What a step does before the next phase, or before `update`.

    measure(flags, s, g, p, *states)          an element's terms of the sums, then the new states; None: nothing is
                                              measured, and numbers that go on from step to step are settled
    settles[extent](flags, s, n, *sums, *states of the extent)   the new states of a range
    """

    measure: Callable[..., Any] | None
    sums: Mapping[str, Sum]
    settles: Mapping[Extent, Callable[..., Any]]

    def summed(self, extent: Extent) -> list[int]:
        """Which of the sums are over this extent."""
        return [k for k, total in enumerate(self.sums.values()) if extent in total.extents]

    @property
    def maxima(self) -> list[int]:
        """Which of the sums are maxima."""
        return [k for k, total in enumerate(self.sums.values()) if total.largest]

    @property
    def settled(self) -> int:
        """The extents that it settles, as bits."""
        return sum(1 << EXTENTS.index(extent) for extent in self.settles)

    @property
    def by_rows(self) -> bool:
        """Whether it goes through a tensor row by row; else block by block."""
        return any(extent in ("row", "column", "matrix", "unit") for extent in self.settles)


class Parts(NamedTuple):
    """What a rule's class declares, by name."""

    hypers: dict[str, Hyper]
    flags: dict[str, Flag]
    states: dict[str, State]
    sums: dict[str, Sum]
    factors: dict[str, Factor]


@cache
def _tuple_type(name: str, fields: tuple[str, ...]) -> Any:
    return namedtuple(name, fields)


def scalars(**values: float) -> Any:
    """The numbers that `update` finds in `s`, by name: what `prepare` returns."""
    return _tuple_type("Scalars", tuple(values))(**values)


UP_TO_FIVE = ("beta1", "beta2", "beta3", "beta4", "beta5")  # of which two to five are given, the others are 0
ALIASES = (  # a name, and the hyperparameters that are given together under it; the last that a rule has all of
    ("betas", ("beta1", "beta2")),
    ("betas", UP_TO_FIVE),
    ("eps", ("eps1", "eps2")),
    ("etas", ("eta_minus", "eta_plus")),
    ("step_sizes", ("step_min", "step_max")),
    ("nus", ("nu1", "nu2")),
    ("ns_coefficients", ("ns_a", "ns_b", "ns_c")),
)


def given_together(place: Place, parts: tuple[str, ...], values: Any) -> tuple[Any, ...]:
    """What each of the hyperparameters is that are given under one name; TypeError if it is another number of them."""
    least, most = 2 if parts == UP_TO_FIVE else len(parts), len(parts)
    if not isinstance(values, Sequence) or not least <= len(values) <= most:
        place.fail(TypeError, f"{f'{least} to ' if least < most else ''}{most} numbers", repr(values))
    return (*values, *[0.0] * (most - len(values)))


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
    compiled_flags: tuple[str, ...] = ()  # those of them that select among compiled variants
    state_flags: Mapping[str, str] = field(default_factory=dict)  # state → the flag it exists under
    flag_hypers: Mapping[str, str] = field(default_factory=dict)  # flag → the hyperparameter that switches it on
    momentum: str | None = None  # the state that is a running mean of gradients, for monitoring
    momentum_sign: int = 1  # −1: that state points down the slope, as a velocity does
    decoupled_decay: bool = False  # weight_decay shrinks the weight instead of joining the gradient
    own_decay: bool = False  # weight_decay is neither λw in the gradient nor w ← (1 − αλ)w
    found_rate: bool = False  # the rule finds its learning rate, of which lr is a factor
    lazy_rows: bool = False  # of gradients of few rows, a step moves these rows alone
    native: bool = True  # it is part of the compiled modules
    defaults: Mapping[str, float] = field(default_factory=dict)  # of the hyperparameters
    phases: tuple[Phase, ...] = ()
    extents: Mapping[str, Extent | Side] = field(default_factory=dict)  # of the states
    starts: Mapping[str, float | str] = field(default_factory=dict)  # of the states
    passing: frozenset[str] = frozenset()  # states of which nothing is needed after the step
    remade: frozenset[str] = frozenset()  # states that a file may lack
    matrix: Callable[..., Any] | None = None  # what becomes of states, array in and array out, before `update`
    matrix_arguments: tuple[str, ...] = ()  # after the flags: `s`, if it takes that, and which states
    factors: Mapping[str, Factor] = field(default_factory=dict)  # states that are for `matrix` alone
    evaluated: Callable[..., Any] | None = None  # the weights to judge a model by: (h, p, *states of elements)
    trained: Callable[..., Any] | None = None  # back to those that it is trained at

    def mask(self, flags: Mapping[str, bool]) -> int:
        """The bit mask that selects the compiled variant."""
        return sum(1 << k for k, name in enumerate(self.compiled_flags) if flags[name])

    def flag_tuple(self, flags: Mapping[str, bool]) -> Any:
        """The flags as `update` takes them."""
        return _tuple_type("Flags", self.flags)(**flags)

    @cached_property
    def aliases(self) -> dict[str, tuple[str, ...]]:
        """Under which names users give several hyperparameters together, and which."""
        return {alias: parts for alias, parts in ALIASES if set(parts) <= set(self.hypers)}

    @property
    def phases_before(self) -> int:
        """How many phases come before `matrix`; all of them where there is none."""
        return len(self.phases) if self.matrix is None else 1

    def states_of(self, extent: Extent) -> tuple[str, ...]:
        """The states of which there is one for each range of this extent."""
        return tuple(name for name in self.states if self.extents[name] == extent)

    def kept(self, flags: Mapping[str, bool]) -> tuple[str, ...]:
        """The states that exist under these flags; factors come last."""
        own = tuple(s for s in self.states if s not in self.state_flags or flags[self.state_flags[s]])
        return (*own, *self.factors)

    @property
    def made_by(self) -> frozenset[str]:
        """The hyperparameters that say how large states are, and so count when the optimizer is made."""
        return frozenset(factor.at_most for factor in self.factors.values())

    @property
    def matrix_states(self) -> tuple[str, ...]:
        """The states that `matrix` takes and returns."""
        return tuple(name for name in self.matrix_arguments if name != "s")

    @property
    def matrix_lasts(self) -> bool:
        """Whether anything that `matrix` makes is kept for later steps."""
        return not self.passing.issuperset(self.matrix_states)


def declared(formula: type, kind: type[Any] | tuple[type[Any], ...]) -> dict[str, Any]:
    """What a rule's class and its bases declare of a kind or several (Hyper, Flag, State …), by name and in order."""
    every: dict[str, Any] = {}
    for base in reversed(formula.__mro__):
        every |= vars(base)
    return {name: value for name, value in every.items() if isinstance(value, kind)}


def rule_of(formula: type, *, native: bool = True) -> Rule:
    """Reads a rule's class; TypeError names what it lacks or has too much."""
    name = formula.__name__.lower()
    parts = Parts(*(declared(formula, kind) for kind in (Hyper, Flag, State, Sum, Factor)))
    hypers, flags, states, sums, factors = parts
    check_parts(name, formula, parts, _measures(formula))
    prepare: Any = formula.prepare  # type: ignore[attr-defined]
    matrix: Any = getattr(formula, "matrix", None)
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
        compiled_flags=tuple(key for key, flag in flags.items() if flag.of is None),
        state_flags={key: state.when for key, state in states.items() if state.when},
        flag_hypers={key: flag.when for key, flag in flags.items() if flag.when},
        momentum=next(iter(roles.values()), None),
        momentum_sign=-1 if "velocity" in roles else 1,
        decoupled_decay=getattr(formula, "decoupled_decay", False),
        own_decay=getattr(formula, "own_decay", False),
        found_rate=getattr(formula, "found_rate", False),
        lazy_rows=getattr(formula, "lazy_rows", False),
        native=native,
        defaults={key: hyper.default for key, hyper in hypers.items()},
        phases=_phases(formula, sums),
        extents={key: state.per for key, state in states.items()} | {key: each.per for key, each in factors.items()},
        starts={key: state.start for key, state in states.items()},
        passing=frozenset(key for key, state in states.items() if not state.lasts),
        remade=frozenset(key for key, state in states.items() if state.remade),
        matrix=matrix,
        matrix_arguments=matrix.__code__.co_varnames[1 : matrix.__code__.co_argcount] if matrix else (),
        factors=factors,
        evaluated=getattr(formula, "evaluated", None),
        trained=getattr(formula, "trained", None),
    )


def _measures(formula: type) -> list[str]:
    """The functions that come before `update`, in their order."""
    return sorted(name for name in dir(formula) if name.partition("_")[0] == "measure")


def _phases(formula: type, sums: Mapping[str, Sum]) -> tuple[Phase, ...]:
    alone = settled_alone(formula, _measures(formula))
    if alone:
        return (Phase(None, {}, {extent: getattr(formula, f"settle_{extent}") for extent in alone}),)
    return tuple(_phase(formula, measure, sums) for measure in _measures(formula))


def _phase(formula: type, measure: str, sums: Mapping[str, Sum]) -> Phase:
    """A phase, as its function and what is summed tell of it."""
    own = {key: total for key, total in sums.items() if total.of == measure}
    extents = [extent for extent in EXTENTS if any(extent in total.extents for total in own.values())]
    settles = {extent: getattr(formula, settle_name(extent, measure, sums)) for extent in extents}
    return Phase(getattr(formula, measure), own, settles)
