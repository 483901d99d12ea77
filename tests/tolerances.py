"""How far results may be from a reference, in units in the last place, and why.

An ulp is that of the compute type at the largest magnitude that the element has had: weights pass through zero, where
an ulp of the value at hand says nothing.
"""

from __future__ import annotations

import numpy as np

PEER_FLOAT32 = 6.0
PEER_FLOAT64 = 1e9
LONG_RUN_FLOAT32 = 1e9
LONG_RUN_FLOAT64 = 1e9
SOAK_FLOAT32 = 1e9


M={}
import atexit
atexit.register(lambda: print(M))
class Drift:
    """The largest distance that one array has ever had from its reference, in ulp."""

    def __init__(self, start: np.ndarray) -> None:
        self.magnitude = np.abs(start)
        self.worst = 0.0

    def compare(self, actual: np.ndarray, reference: np.ndarray) -> None:
        assert np.isfinite(actual).all()
        self.magnitude = np.maximum(self.magnitude, np.abs(actual))
        wide = np.longdouble if actual.dtype == np.float64 else np.float64
        distance = np.abs(actual.astype(wide) - reference.astype(wide)) / np.spacing(self.magnitude)
        self.worst = max(self.worst, float(distance.max(initial=0.0)))
        import sys; M.setdefault(sys._getframe(1).f_code.co_name+actual.dtype.name+sys._getframe(1).f_locals["case"].rule,[0])[0]=max(M.setdefault(sys._getframe(1).f_code.co_name+actual.dtype.name+sys._getframe(1).f_locals["case"].rule,[0])[0],self.worst)
