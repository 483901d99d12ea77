"""Whether a step is to be left out because its loss or its gradient norm is far from those of late."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FEWEST = 10  # values of the past that make a spread
LEAST = 0.01  # of the norm or the loss: a smaller spread says more of a smooth training than of outliers


class Verdict(NamedTuple):
    """What is out of the ordinary, and by how many standard deviations; quantity None: nothing is."""

    quantity: str | None = None
    deviations: float = 0.0

    @property
    def skip(self) -> bool:
        return self.quantity is not None


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
        if isinstance(k, bool) or not 0 < k < math.inf:
            raise ValueError(f"[outliers] k: expected a finite number > 0, received {k!r}")
        if isinstance(window, bool) or window != int(window) or window < FEWEST:
            raise ValueError(f"[outliers] window: expected an integer ≥ {FEWEST}, received {window!r}")
        self.k, self.window = float(k), int(window)
        self._past: dict[str, NDArray[np.float64]] = {"grad_norm": np.zeros(0), "loss": np.zeros(0)}

    def judge(self, grad_norm: float, loss: float | None = None) -> Verdict:
        """Takes a step's figures into the past, and says whether the step is to be skipped. loss None: not known."""
        verdict = Verdict()
        values = {"grad_norm": math.log(grad_norm) if grad_norm > 0 else math.nan, "loss": loss}
        for name, value in values.items():
            if value is None or not math.isfinite(value):
                continue
            deviations, kept = self._compare(name, value)
            if deviations > max(self.k, verdict.deviations):
                verdict = Verdict(name, deviations)
            self._past[name] = np.append(self._past[name], kept)[-self.window :]
        return verdict

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

    def state_dict(self) -> dict[str, Any]:
        """The past: by name, up to `window` numbers, the oldest first."""
        return {name: past.tolist() for name, past in self._past.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave; ValueError for anything else, and nothing has changed."""
        past = {name: np.asarray(state[name], np.float64) for name in self._past if name in state}
        right = past.keys() == self._past.keys() == state.keys()
        if not right or any(values.ndim != 1 or not np.isfinite(values).all() for values in past.values()):
            raise ValueError(
                f"[outliers] state: expected finite numbers for {' and '.join(self._past)}, received {state!r}"
            )
        self._past = {name: values[-self.window :] for name, values in past.items()}
