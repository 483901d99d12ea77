"""What a rule is in Python: its names, the ranges of its hyperparameters, and a readable mirror of its C++ header."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastupdate.arrays.numbers import BELOW_ONE as BELOW_ONE
from fastupdate.arrays.numbers import FRACTION as FRACTION
from fastupdate.arrays.numbers import NON_NEGATIVE as NON_NEGATIVE
from fastupdate.arrays.numbers import Interval as Interval

Hyper = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Rule:
    """One update rule. The names are those of csrc/rules/<name>.h, in the same order.

    prepare(hyper, t)
        float64 scalars of step t = 1, 2, …, as a NamedTuple in the order of the C++ fields.
    update(flags, s, g, p, *states)
        the change of the parameter, then the new states. Works on scalars (Numba compiles it) and on NumPy arrays.
        Constants must come from `s`, where they have the compute type: a literal would widen float32.
    """

    name: str
    hypers: Mapping[str, Interval]
    states: tuple[str, ...]
    prepare: Callable[[Hyper, int], Any]
    update: Callable[..., tuple[Any, ...]]
    flags: tuple[str, ...] = ()
    state_flags: Mapping[str, str] = field(default_factory=dict)  # state → the flag it exists under
    flag_hypers: Mapping[str, str] = field(default_factory=dict)  # flag → the hyperparameter that switches it on
    momentum: str | None = None  # the state that is a running mean of gradients, for monitoring
    momentum_sign: int = 1  # −1: that state points down the slope, as a velocity does
    decoupled_decay: bool = False  # weight_decay shrinks the weight instead of joining the gradient
    native: bool = True

    def mask(self, flags: Mapping[str, bool]) -> int:
        """The bit mask that selects the compiled variant."""
        return sum(1 << k for k, name in enumerate(self.flags) if flags[name])

    def flag_tuple(self, flags: Mapping[str, bool]) -> Any:
        """The flags as `update` takes them."""
        return namedtuple("Flags", self.flags)(**flags)

    def kept(self, flags: Mapping[str, bool]) -> tuple[str, ...]:
        """The states that exist under these flags."""
        return tuple(s for s in self.states if s not in self.state_flags or flags[self.state_flags[s]])
