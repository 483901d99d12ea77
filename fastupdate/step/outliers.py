"""Whether a step is to be left out because its loss or its gradient norm is far from those of late."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastupdate.arrays.memory import Assignment
from fastupdate.arrays.place import Place

FEWEST = 10  # values of the past that make a spread
LEAST = 0.01  # of the norm or the loss: a smaller spread says more of a smooth training than of outliers
FIGURES = ("grad_norm", "loss")

Past = dict[str, NDArray[np.float64]]


class Verdict(NamedTuple):
    """What is out of the ordinary, and by how many standard deviations; quantity None: nothing is.

    past  with the figures of this step
    """

    past: Past
    quantity: str | None = None
    deviations: float = 0.0

    @property
    def reason(self) -> str | None:
        """In words; None: the step is an ordinary one."""
        if self.quantity is None:
            return None
        return (
            f"{self.quantity} {self.deviations:.3g} standard deviations above the last {len(self.past[self.quantity])}"
        )


class Outliers:
    """Steps whose gradient norm or loss is more than k standard deviations above the last `window` ones.

    k       standard deviations, > 0
    window  how many steps are the recent past, ≥ 10; nothing is judged before there are 10

    Norms are compared by their logarithms, for their noise is relative; losses as they are, for they may be negative.
    A spread below 1 % counts as 1 %. Only what is too large counts, and what is not finite is left to the policy
    `nonfinite`. An outlier enters the past as k standard deviations above its mean: so it does not hide the next one,
    and if the training has come to another level for good, the past follows within about a tenth of the window.
    """

    def __init__(self, k: float, window: int) -> None:
        self.k, self.window = k, window
        self._past: Past = {name: np.zeros(0) for name in FIGURES}

    def judge(self, grad_norm: float, loss: float | None = None) -> Verdict:
        """Whether a step of these figures is to be skipped. loss None: not known. See `taking`."""
        values = {"grad_norm": math.log(grad_norm) if grad_norm > 0 else math.nan, "loss": loss}
        past, found = dict(self._past), Verdict({})
        for name, value in values.items():
            if value is None or not math.isfinite(value):
                continue
            deviations, kept = self._compare(name, value)
            if deviations > max(self.k, found.deviations):
                found = Verdict({}, name, deviations)
            past[name] = np.append(past[name], kept)[-self.window :]
        return found._replace(past=past)

    def taking(self, verdict: Verdict) -> Assignment:
        """The assignment that makes a step that was judged a part of the past."""
        return (setattr, self, "_past", verdict.past)

    def _compare(self, name: str, value: float) -> tuple[float, float]:
        """Standard deviations above the past, and what of the value enters it."""
        past = self._past[name]
        if len(past) < FEWEST:
            return 0.0, value
        mean, spread = float(past.mean()), float(past.std(ddof=1))
        spread = max(spread, LEAST if name == "grad_norm" else LEAST * abs(mean))
        if value <= mean + self.k * spread or spread == 0:
            return 0.0, value
        return (value - mean) / spread, mean + self.k * spread

    def state_dict(self) -> dict[str, list[float]]:
        """The past: by name, up to `window` numbers, the oldest first."""
        return {name: past.tolist() for name, past in self._past.items()}

    def restoring(self, place: Place, state: Any) -> Assignment:
        """The assignment of what `state_dict` gave; ValueError for anything else."""
        try:
            past = {name: np.asarray(state[name], np.float64) for name in FIGURES}
            right = isinstance(state, Mapping) and past.keys() == state.keys()
            right = right and all(values.ndim == 1 and np.isfinite(values).all() for values in past.values())
        except (KeyError, TypeError, ValueError):
            right = False
        if not right:
            place.fail(ValueError, f"lists of finite numbers for {' and '.join(FIGURES)}", repr(state))
        return (setattr, self, "_past", {name: values[-self.window :] for name, values in past.items()})
